// Package trust says whose signature a release has, and whether that is enough for an image that trusts some keys.
//
// A key signs [Text] of release.json's digest. Keys are ed25519 or ECDSA on P-256: files of them are PEM with a
// SubjectPublicKeyInfo (RFC 5280). The private ones, and what signs with them, are in trust/sign: this package is
// linked into /init, and knows no more of X.509 than the few bytes that are before these keys.
package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/kairos-buildkit/kairos/layout"
)

// MaxKeySize bounds a key's file in bytes.
const MaxKeySize = 16 << 10

// publicBlock is the type of the PEM block.
const publicBlock = "PUBLIC KEY"

// What is before a key's bytes in its SubjectPublicKeyInfo, in DER. Sources: RFC 8410, section 4, and RFC 5480,
// section 2, with an uncompressed point.
const (
	ed25519Prefix = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"
	p256Prefix    = "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07" +
		"\x03\x42\x00"
)

// PublicKey says who has signed.
type PublicKey struct {
	// ID is the SHA-256 digest of the key's SubjectPublicKeyInfo.
	ID layout.Digest
	// Algorithm is [Ed25519] or [ECDSA].
	Algorithm string
	// Raw is the key: the 32 bytes of RFC 8032, or the 65 of an uncompressed point (SEC 1, section 2.3.3).
	Raw []byte
}

// NewPublicKey makes a key of its bytes, see [PublicKey.Raw].
func NewPublicKey(algorithm string, raw []byte) (PublicKey, error) {
	k := PublicKey{Algorithm: algorithm, Raw: bytes.Clone(raw)}
	switch algorithm {
	case Ed25519:
		if len(raw) != ed25519.PublicKeySize {
			return PublicKey{}, fmt.Errorf("public key: %d bytes: want %d", len(raw), ed25519.PublicKeySize)
		}
	case ECDSA:
		if _, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw); err != nil {
			return PublicKey{}, fmt.Errorf("public key: %w", err)
		}
	default:
		return PublicKey{}, fmt.Errorf("public key: the algorithm %q is none of %s and %s", algorithm, Ed25519, ECDSA)
	}
	k.ID = layout.SHA256(sha256.Sum256(k.der()))
	return k, nil
}

// der is the key's SubjectPublicKeyInfo.
func (k PublicKey) der() []byte {
	if k.Algorithm == ECDSA {
		return append([]byte(p256Prefix), k.Raw...)
	}
	return append([]byte(ed25519Prefix), k.Raw...)
}

// PEM returns the content of the key's file.
func (k PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: k.der()})
}

// ParsePublicKey reads the file of one public key.
func ParsePublicKey(b []byte) (PublicKey, error) {
	der, err := Block(b, publicBlock)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	if raw, ok := bytes.CutPrefix(der, []byte(ed25519Prefix)); ok {
		return NewPublicKey(Ed25519, raw)
	}
	if raw, ok := bytes.CutPrefix(der, []byte(p256Prefix)); ok {
		return NewPublicKey(ECDSA, raw)
	}
	return PublicKey{}, errors.New("public key: neither ed25519 nor ECDSA on P-256 as an uncompressed point")
}

// Block returns what is in the only PEM block of a key's file.
func Block(b []byte, kind string) ([]byte, error) {
	if len(b) > MaxKeySize {
		return nil, fmt.Errorf("%d bytes, more than %d", len(b), MaxKeySize)
	}
	found, rest := pem.Decode(b)
	if found == nil {
		return nil, fmt.Errorf("no PEM block %q", kind)
	}
	if found.Type != kind {
		return nil, fmt.Errorf("the PEM block is %q: want %q", found.Type, kind)
	}
	if again, _ := pem.Decode(rest); again != nil {
		return nil, errors.New("more than one PEM block: want a file for each key")
	}
	return found.Bytes, nil
}
