package pcr

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

// KeyBits is the size of a key that signs policies: what each TPM 2.0 verifies.
const KeyBits = 2048

// MaxKeySize bounds the file of a public key, in bytes.
const MaxKeySize = 16 << 10

// oidRSA is rsaEncryption of PKCS #1.
var oidRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}

// publicKeyInfo is SubjectPublicKeyInfo of X.509 (RFC 5280, 4.1), for RSA.
type publicKeyInfo struct {
	Algorithm struct {
		Algorithm  asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
	Key asn1.BitString
}

// rsaPublicKey is RSAPublicKey of PKCS #1 (RFC 8017, A.1.1).
type rsaPublicKey struct {
	N *big.Int
	E int
}

// ParsePublic reads a public key: PEM, SubjectPublicKeyInfo, RSA with [KeyBits]. (Package crypto/x509 would make /init
// a third larger.)
func ParsePublic(b []byte) (*rsa.PublicKey, error) {
	if len(b) > MaxKeySize {
		return nil, fmt.Errorf("public key: %d bytes: at most %d are read", len(b), MaxKeySize)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("public key: want one, PEM, with the line BEGIN PUBLIC KEY")
	}
	var info publicKeyInfo
	if rest, err := asn1.Unmarshal(block.Bytes, &info); err != nil || len(rest) > 0 {
		return nil, errors.New("public key: it is no SubjectPublicKeyInfo")
	}
	if !info.Algorithm.Algorithm.Equal(oidRSA) {
		return nil, errors.New("public key: it is not RSA")
	}
	var key rsaPublicKey
	if rest, err := asn1.Unmarshal(info.Key.RightAlign(), &key); err != nil || len(rest) > 0 || key.N == nil {
		return nil, errors.New("public key: it is no RSA key")
	}
	if key.N.Sign() <= 0 || key.N.BitLen() != KeyBits {
		return nil, fmt.Errorf("public key: RSA with %d bits: want %d, which each TPM 2.0 verifies", key.N.BitLen(),
			KeyBits)
	}
	if key.E != 65537 {
		return nil, fmt.Errorf("public key: its exponent is %d: want 65537", key.E)
	}
	return &rsa.PublicKey{N: key.N, E: key.E}, nil
}

// MarshalPublic returns a public key as the section .pcrpkey has it: the inverse of [ParsePublic].
func MarshalPublic(key *rsa.PublicKey) []byte {
	var info publicKeyInfo
	info.Algorithm.Algorithm, info.Algorithm.Parameters = oidRSA, asn1.NullRawValue
	der := pkcs1(key)
	info.Key = asn1.BitString{Bytes: der, BitLength: 8 * len(der)}
	b, _ := asn1.Marshal(info) // numbers and bytes cannot fail
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: b})
}

// Fingerprint is what a signature names its key by: SHA-256 of the key in DER, as PKCS #1 has it.
func Fingerprint(key *rsa.PublicKey) [sha256.Size]byte { return sha256.Sum256(pkcs1(key)) }

func pkcs1(key *rsa.PublicKey) []byte {
	b, _ := asn1.Marshal(rsaPublicKey{key.N, key.E}) // numbers cannot fail
	return b
}
