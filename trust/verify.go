package trust

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/kairos-buildkit/kairos/layout"
)

// Text is what a key signs for the record of a release, which must parse.
func Text(record []byte) ([]byte, error) {
	if _, err := layout.ParseRelease(record); err != nil {
		return nil, err
	}
	return signedText(layout.SHA256(sha256.Sum256(record))), nil
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
	switch k.Algorithm {
	case Ed25519:
		ok = len(k.Raw) == ed25519.PublicKeySize && ed25519.Verify(k.Raw, text, s.Signature)
	case ECDSA:
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), k.Raw)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		ok = ecdsa.VerifyASN1(key, sum[:], s.Signature)
	}
	if !ok {
		return errors.New("its signature is not one of this release.json")
	}
	return nil
}
