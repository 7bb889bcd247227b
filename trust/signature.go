package trust

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/kairos-buildkit/kairos/layout"
)

// What signs a release: names of algorithms in [Signature].
const (
	// Ed25519 is the signature of RFC 8032 over [Text], 64 bytes.
	Ed25519 = "ed25519"
	// ECDSA is ECDSA on P-256 over the SHA-256 digest of [Text], in the ASN.1 form of RFC 3279.
	ECDSA = "ecdsa-p256"
)

const (
	// maxSignatures bounds how many signatures a record has.
	maxSignatures = 32
	// maxSignature bounds one in bytes: an ECDSA signature on P-256 takes at most 72.
	maxSignature = 72
)

// Signature is one key's over a release.
type Signature struct {
	// Key is the SHA-256 digest of the public key's SubjectPublicKeyInfo (RFC 5280) in DER.
	Key layout.Digest `json:"key"`
	// Algorithm is one of the names above.
	Algorithm string `json:"algorithm"`
	// Signature is in base64 in the record.
	Signature []byte `json:"signature"`
}

// Signatures are those of one release, at most one of each key, sorted by key.
type Signatures []Signature

type signaturesV1 struct {
	Schema     int         `json:"schema"`
	Signatures []Signature `json:"signatures"`
}

// signedText is what a key signs for a release: a text that says what it is for, and that names release.json's
// bytes by their digest. So a signature is bound to these bytes alone, and means nothing where another text is signed.
func signedText(record layout.Digest) []byte {
	return []byte("Kairos release signature, version 1\n" + string(record) + "\n")
}

// Marshal returns the canonical record: JSON in the style of release.json.
func (s Signatures) Marshal() ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("signatures: %w", err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(signaturesV1{1, s}); err != nil {
		return nil, fmt.Errorf("signatures: %w", err)
	}
	return b.Bytes(), nil
}

// ParseSignatures reads a record. Like [layout.ParseRelease] it takes canonical bytes only.
func ParseSignatures(b []byte) (Signatures, error) {
	if len(b) > layout.MaxSignaturesSize {
		return nil, fmt.Errorf("signatures: %d bytes, more than %d", len(b), layout.MaxSignaturesSize)
	}
	var v signaturesV1
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("signatures: %w", err)
	}
	if v.Schema != 1 {
		return nil, fmt.Errorf("signatures: their format is number %d, and 1 is known", v.Schema)
	}
	s := Signatures(v.Signatures)
	canonical, err := s.Marshal()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(canonical, b) {
		return nil, errors.New("signatures: not in their canonical encoding")
	}
	return s, nil
}

func (s Signatures) validate() error {
	if len(s) == 0 || len(s) > maxSignatures {
		return fmt.Errorf("%d of them: want 1 to %d", len(s), maxSignatures)
	}
	for i, one := range s {
		if _, err := layout.ParseDigest(string(one.Key)); err != nil {
			return fmt.Errorf("number %d: key: %w", i+1, err)
		}
		if one.Algorithm != Ed25519 && one.Algorithm != ECDSA {
			return fmt.Errorf("number %d: the algorithm %q is not known", i+1, one.Algorithm)
		}
		if len(one.Signature) == 0 || len(one.Signature) > maxSignature {
			return fmt.Errorf("number %d: %d bytes: want 1 to %d", i+1, len(one.Signature), maxSignature)
		}
		if i > 0 && cmp.Compare(s[i-1].Key, one.Key) >= 0 {
			return errors.New("not sorted by key, or two of one key")
		}
	}
	return nil
}

// Sort brings signatures into the record's order.
func (s Signatures) Sort() {
	slices.SortFunc(s, func(a, b Signature) int { return cmp.Compare(a.Key, b.Key) })
}
