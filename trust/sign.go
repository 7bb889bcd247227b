package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/kairos-buildkit/kairos/layout"
)

// Text is what a key signs for the record of a release, which must parse.
func Text(record []byte) ([]byte, error) {
	if _, err := layout.ParseRelease(record); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(record)
	return signedText(layout.Digest("sha256:" + hex.EncodeToString(sum[:]))), nil
}

// Sign signs the record of a release. The same key and record give the same bytes.
func (k PrivateKey) Sign(record []byte) (Signature, error) {
	text, err := Text(record)
	if err != nil {
		return Signature{}, fmt.Errorf("sign: %w", err)
	}
	s := Signature{Key: k.ID, Algorithm: k.Algorithm}
	if k.Algorithm == Ed25519 {
		s.Signature, err = k.signer.Sign(nil, text, crypto.Hash(0))
	} else {
		sum := sha256.Sum256(text)
		s.Signature, err = k.signer.Sign(nil, sum[:], crypto.SHA256) // without randomness: RFC 6979
	}
	if err != nil {
		return Signature{}, fmt.Errorf("sign with key %s: %w", k.ID, err)
	}
	return s, nil
}

// Detached makes a signature of what another program or device signed: the bytes of [Text], by this key.
func Detached(record []byte, key PublicKey, signature []byte) (Signature, error) {
	s := Signature{Key: key.ID, Algorithm: key.Algorithm, Signature: signature}
	if err := key.verify(record, s); err != nil {
		return Signature{}, err
	}
	return s, nil
}

// Verify says which of the keys have signed the record, in the order of keys, and fails where these are fewer than
// threshold. A key counts once, however often it is given; signatures of other keys are ignored.
func Verify(record []byte, s Signatures, keys []PublicKey, threshold int) ([]PublicKey, error) {
	if threshold < 1 {
		return nil, fmt.Errorf("verify: %d signatures are asked for: want 1 or more", threshold)
	}
	var signed []PublicKey
	var wrong []error
	seen := map[layout.Digest]bool{}
	for _, key := range keys {
		if seen[key.ID] {
			continue
		}
		seen[key.ID] = true
		err := errors.New("it has not signed")
		for _, one := range s {
			if one.Key != key.ID {
				continue
			}
			if err = key.verify(record, one); err == nil {
				break
			}
		}
		if err == nil {
			signed = append(signed, key)
		} else {
			wrong = append(wrong, fmt.Errorf("key %s: %w", key.ID, err))
		}
	}
	if len(signed) < threshold {
		return signed, fmt.Errorf("%d of %d signatures: %w", len(signed), threshold, errors.Join(append(wrong,
			errors.New("sign it with more of the keys"))...))
	}
	return signed, nil
}

func (k PublicKey) verify(record []byte, s Signature) error {
	text, err := Text(record)
	if err != nil {
		return err
	}
	if s.Key != k.ID || s.Algorithm != k.Algorithm {
		return fmt.Errorf("the signature is for the key %s, %s", s.Key, s.Algorithm)
	}
	ok := false
	switch key := k.key.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(key, text, s.Signature)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(text)
		ok = ecdsa.VerifyASN1(key, sum[:], s.Signature)
	}
	if !ok {
		return errors.New("its signature is not one of this release.json")
	}
	return nil
}
