// Package sign signs releases. Private keys are PEM files with PKCS #8 (RFC 5958). The same key and the same release
// give the same signature: ed25519 does so by its nature, ECDSA in the form of RFC 6979.
package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
)

// privateBlock is the type of the PEM block.
const privateBlock = "PRIVATE KEY"

// Key signs.
type Key struct {
	trust.PublicKey
	signer crypto.Signer
}

// NewKey makes a key for one of the algorithms, [trust.Ed25519] or [trust.ECDSA].
func NewKey(algorithm string) (Key, error) {
	switch algorithm {
	case trust.Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return Key{}, fmt.Errorf("new key: %w", err)
		}
		return newKey(key)
	case trust.ECDSA:
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return Key{}, fmt.Errorf("new key: %w", err)
		}
		return newKey(key)
	}
	return Key{}, fmt.Errorf("new key: %q is none of %s and %s", algorithm, trust.Ed25519, trust.ECDSA)
}

// NewSigner makes a key of one that is elsewhere, such as on a token. Its Sign gets the text for ed25519, with
// crypto.Hash(0), and a SHA-256 digest for ECDSA; what it returns is verified. Such a key may give other bytes each
// time.
func NewSigner(key crypto.Signer) (Key, error) { return newKey(key) }

func newKey(key crypto.Signer) (Key, error) {
	var public trust.PublicKey
	var err error
	switch p := key.Public().(type) {
	case ed25519.PublicKey:
		public, err = trust.NewPublicKey(trust.Ed25519, p)
	case *ecdsa.PublicKey:
		if p.Curve != elliptic.P256() {
			return Key{}, fmt.Errorf("private key: on the curve %s: want P-256", p.Params().Name)
		}
		var raw []byte
		if raw, err = p.Bytes(); err == nil {
			public, err = trust.NewPublicKey(trust.ECDSA, raw)
		}
	default:
		return Key{}, errors.New("private key: neither ed25519 nor ECDSA on P-256")
	}
	return Key{public, key}, err
}

// PrivatePEM returns the content of the private key's file.
func (k Key) PrivatePEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.signer)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der}), nil
}

// ParseKey reads the file of one private key. Its errors say nothing of the key.
func ParseKey(b []byte) (Key, error) {
	der, err := trust.Block(b, privateBlock)
	if err != nil {
		return Key{}, fmt.Errorf("private key: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return Key{}, errors.New("private key: it is not in the form of PKCS #8")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return Key{}, errors.New("private key: it cannot sign")
	}
	return newKey(signer)
}

// Sign signs the record of a release. The same key and record give the same bytes.
func (k Key) Sign(record []byte) (trust.Signature, error) {
	text, err := trust.Text(record)
	if err != nil {
		return trust.Signature{}, fmt.Errorf("sign: %w", err)
	}
	s := trust.Signature{Key: k.ID, Algorithm: k.Algorithm}
	if k.Algorithm == trust.Ed25519 {
		s.Signature, err = k.signer.Sign(nil, text, crypto.Hash(0))
	} else {
		sum := sha256.Sum256(text)
		s.Signature, err = k.signer.Sign(nil, sum[:], crypto.SHA256) // without randomness: RFC 6979
	}
	if err != nil {
		return trust.Signature{}, fmt.Errorf("sign with key %s: %w", k.ID, err)
	}
	if s, err = trust.Detached(record, k.PublicKey, s.Signature); err != nil {
		return trust.Signature{}, fmt.Errorf("sign with key %s: %w", k.ID, err)
	}
	return s, nil
}

// Release signs a release: its record, release.json.
func Release(r layout.Release, keys []Key) (trust.Signatures, error) {
	record, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	return All(record, keys)
}

// All signs the record with several keys, and returns the record of their signatures.
func All(record []byte, keys []Key) (trust.Signatures, error) {
	var all trust.Signatures
	for _, key := range keys {
		one, err := key.Sign(record)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	all.Sort()
	return all, nil
}
