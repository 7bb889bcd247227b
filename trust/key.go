// Package trust signs releases, and says whose signature a release has.
//
// A key signs [Text] of release.json's digest. Keys are ed25519 or ECDSA on P-256: public ones are
// PEM with a SubjectPublicKeyInfo (RFC 5280), private ones PEM with PKCS #8 (RFC 5958). The same key and the same
// release give the same signature: ed25519 does so by its nature, ECDSA in the form of RFC 6979.
package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/kairos-buildkit/kairos/layout"
)

// MaxKeySize bounds a key's file in bytes.
const MaxKeySize = 16 << 10

// The types of PEM blocks.
const (
	publicBlock  = "PUBLIC KEY"
	privateBlock = "PRIVATE KEY"
)

// PublicKey says who has signed.
type PublicKey struct {
	// ID is the SHA-256 digest of the key's SubjectPublicKeyInfo.
	ID layout.Digest
	// Algorithm is [Ed25519] or [ECDSA].
	Algorithm string

	key crypto.PublicKey
	der []byte
}

// PEM returns the content of the key's file.
func (k PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: k.der})
}

// ParsePublicKey reads the file of one public key.
func ParsePublicKey(b []byte) (PublicKey, error) {
	der, err := block(b, publicBlock)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	return publicKey(key)
}

// publicKey takes the key's one encoding, so that one key has one ID, however its file spells it.
func publicKey(key crypto.PublicKey) (k PublicKey, err error) {
	switch key := key.(type) {
	case ed25519.PublicKey:
		k.Algorithm = Ed25519
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return k, fmt.Errorf("public key: on the curve %s: want P-256", key.Params().Name)
		}
		k.Algorithm = ECDSA
	default:
		return k, errors.New("public key: neither ed25519 nor ECDSA on P-256")
	}
	if k.der, err = x509.MarshalPKIXPublicKey(key); err != nil {
		return k, fmt.Errorf("public key: %w", err)
	}
	sum := sha256.Sum256(k.der)
	k.key, k.ID = key, layout.Digest("sha256:"+hex.EncodeToString(sum[:]))
	return k, nil
}

// PrivateKey signs.
type PrivateKey struct {
	PublicKey
	signer crypto.Signer
}

// NewPrivateKey makes a key for one of the algorithms.
func NewPrivateKey(algorithm string) (PrivateKey, error) {
	switch algorithm {
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return PrivateKey{}, fmt.Errorf("new key: %w", err)
		}
		return privateKey(key)
	case ECDSA:
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return PrivateKey{}, fmt.Errorf("new key: %w", err)
		}
		return privateKey(key)
	}
	return PrivateKey{}, fmt.Errorf(
		"new key: %q is none of %s and %s", algorithm, Ed25519, ECDSA,
	)
}

func privateKey(key crypto.Signer) (PrivateKey, error) {
	public, err := publicKey(key.Public())
	return PrivateKey{public, key}, err
}

// PrivatePEM returns the content of the private key's file.
func (k PrivateKey) PrivatePEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.signer)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der}), nil
}

// ParsePrivateKey reads the file of one private key. Its errors say nothing of the key.
func ParsePrivateKey(b []byte) (PrivateKey, error) {
	der, err := block(b, privateBlock)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("private key: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return PrivateKey{}, errors.New("private key: it is not in the form of PKCS #8")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return PrivateKey{}, errors.New("private key: it cannot sign")
	}
	return privateKey(signer)
}

// block returns what is in the only PEM block of a file.
func block(b []byte, kind string) ([]byte, error) {
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
