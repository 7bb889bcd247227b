package secureboot

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
)

const (
	// maxDetached bounds how many signatures a record has, and maxSignature one in bytes: with a certificate of a
	// key of 4096 bits it is about 2.5 KiB.
	maxDetached  = 16
	maxSignature = 8 << 10
)

// Detached is the signature of an image's boot file, apart from the file. It needs no other signature around it:
// it is one of the file's digest, by a key whose certificate the image has.
type Detached struct {
	// File is the boot file's path in the image: [layout.ImageUKI] or [layout.ImageSystemdBoot].
	File string `json:"file"`
	// Signature is PKCS #7 in DER, as it is attached to the file; base64 in the record.
	Signature []byte `json:"signature"`
}

// DetachedList are signatures of one image's boot files, sorted by file and then by their bytes. There may be several
// of a file: the first one that is good counts.
type DetachedList []Detached

type detachedV1 struct {
	Schema     int        `json:"schema"`
	Signatures []Detached `json:"signatures"`
}

// Marshal returns the canonical record, the content of [layout.ReleaseBootSignaturesPath]: JSON in the style of
// release.json. It sorts.
func (l DetachedList) Marshal() ([]byte, error) {
	l = slices.Clone(l)
	slices.SortFunc(l, compare)
	l = slices.CompactFunc(l, func(a, b Detached) bool { return compare(a, b) == 0 })
	if err := l.validate(); err != nil {
		return nil, fmt.Errorf("signatures of boot files: %w", err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(detachedV1{1, l}); err != nil {
		return nil, fmt.Errorf("signatures of boot files: %w", err)
	}
	if b.Len() > layout.MaxBootSignaturesSize {
		return nil, fmt.Errorf("signatures of boot files: %d bytes, more than %d", b.Len(),
			layout.MaxBootSignaturesSize)
	}
	return b.Bytes(), nil
}

func compare(a, b Detached) int {
	if c := bytes.Compare([]byte(a.File), []byte(b.File)); c != 0 {
		return c
	}
	return bytes.Compare(a.Signature, b.Signature)
}

// ParseDetached reads a record. It takes canonical bytes only.
func ParseDetached(b []byte) (DetachedList, error) {
	if len(b) > layout.MaxBootSignaturesSize {
		return nil, fmt.Errorf("signatures of boot files: %d bytes, more than %d", len(b),
			layout.MaxBootSignaturesSize)
	}
	var v detachedV1
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("signatures of boot files: %w", err)
	}
	if v.Schema != 1 {
		return nil, fmt.Errorf("signatures of boot files: their format is number %d, and 1 is known", v.Schema)
	}
	l := DetachedList(v.Signatures)
	canonical, err := l.Marshal()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(canonical, b) {
		return nil, errors.New("signatures of boot files: not in their canonical encoding")
	}
	return l, nil
}

func (l DetachedList) validate() error {
	if len(l) == 0 || len(l) > maxDetached {
		return fmt.Errorf("%d of them: want 1 to %d", len(l), maxDetached)
	}
	for i, one := range l {
		if one.File != layout.ImageUKI && one.File != layout.ImageSystemdBoot {
			return fmt.Errorf("number %d: the file %q is neither %s nor %s", i+1, one.File, layout.ImageUKI,
				layout.ImageSystemdBoot)
		}
		if len(one.Signature) == 0 || len(one.Signature) > maxSignature {
			return fmt.Errorf("number %d: %d bytes: want 1 to %d", i+1, len(one.Signature), maxSignature)
		}
	}
	return nil
}

// Attach returns a boot file with the first of its signatures that is good: one of this file, by the key of the
// certificate. The bytes are those that [Signer.Sign] gives. Where none is good, the error says why of each, and it is
// [ErrUnsigned] where there is none.
func (l DetachedList) Attach(file string, program []byte, certificate *x509.Certificate) ([]byte, error) {
	var wrong []error
	for _, one := range l {
		if one.File != file {
			continue
		}
		signed, err := attach(program, one.Signature, certificate)
		if err == nil {
			return signed, nil
		}
		wrong = append(wrong, err)
	}
	if len(wrong) == 0 {
		return nil, ErrUnsigned
	}
	return nil, errors.Join(wrong...)
}

func attach(program, signature []byte, certificate *x509.Certificate) ([]byte, error) {
	// What is behind the signature would be in the file, and no signature covers it.
	if whole, err := onlyDER(signature); err != nil || len(whole) != len(signature) {
		return nil, errors.New("the signature is cut, or something is behind it")
	}
	signed, err := uki.Attach(program, signature)
	if err != nil {
		return nil, err
	}
	if err := SignedBy(signed, certificate); err != nil {
		return nil, err
	}
	// A good signature can have more around it that nothing signs, such as another certificate: who is between key and
	// node could change the file's bytes by it. So there is one encoding.
	p, err := parseSigned(signature)
	if err != nil {
		return nil, err
	}
	only, err := encoded(program, certificate, p.Signers[0].Signature)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(only, signature) {
		return nil, fmt.Errorf("signature by %s: something is in it that is not signed", Name(certificate))
	}
	return signed, nil
}

// onlyDER is the first value in DER, with its tag and length.
func onlyDER(b []byte) ([]byte, error) {
	var v asn1.RawValue
	_, err := asn1.Unmarshal(b, &v)
	return v.FullBytes, err
}

// Detach returns the signature that a boot file has, so that [DetachedList.Attach] puts it on again.
func Detach(file string, program []byte) (Detached, error) {
	all, err := uki.Signatures(program)
	if err != nil {
		return Detached{}, err
	}
	if len(all) != 1 {
		return Detached{}, fmt.Errorf("/%s: it has %d signatures, and not one", file, len(all))
	}
	der, err := onlyDER(all[0]) // without what fills it up
	return Detached{file, der}, err
}

// Detached returns the signature of an EFI program as [Signer.Sign] attaches it, PKCS #7 in DER.
func (s *Signer) Detached(program []byte) ([]byte, error) {
	content, err := indirect(program)
	if err != nil {
		return nil, err
	}
	signed, err := s.sign(oidIndirectData, content, true)
	if err != nil {
		return nil, err
	}
	return whole(signed)
}

// Text returns what the key of a certificate, which is elsewhere, has to sign for a program: by RSA PKCS #1 v1.5 with
// SHA-256, over the text itself.
func Text(program []byte, certificate *x509.Certificate) ([]byte, error) {
	content, err := indirect(program)
	if err != nil {
		return nil, err
	}
	_, message, err := toSign(certificate, oidIndirectData, content, true)
	return message, err
}

// Answered returns the signature of a program, PKCS #7 in DER, for what the certificate's key has made of [Text].
func Answered(program []byte, certificate *x509.Certificate, answer []byte) ([]byte, error) {
	signature, err := encoded(program, certificate, answer)
	if err != nil {
		return nil, err
	}
	_, err = attach(program, signature, certificate)
	return signature, err
}

func encoded(program []byte, certificate *x509.Certificate, answer []byte) ([]byte, error) {
	content, err := indirect(program)
	if err != nil {
		return nil, err
	}
	data, _, err := toSign(certificate, oidIndirectData, content, true)
	if err != nil {
		return nil, err
	}
	signed, err := data.signedWith(answer)
	if err != nil {
		return nil, err
	}
	return whole(signed)
}
