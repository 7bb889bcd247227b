package secureboot

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

var (
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidRSASHA256     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
)

// The structures of PKCS #7, RFC 2315, sections 7 and 9.
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,optional,tag:0"`
}

type signedData struct {
	Version      int
	Digests      []pkix.AlgorithmIdentifier `asn1:"set"`
	Content      contentInfo
	Certificates asn1.RawValue `asn1:"optional,tag:0"`
	CRLs         asn1.RawValue `asn1:"optional,tag:1"`
	Signers      []signerInfo  `asn1:"set"`
}

type signerInfo struct {
	Version int
	Issuer  struct {
		Name   asn1.RawValue
		Serial *big.Int
	}
	Digest     pkix.AlgorithmIdentifier
	Attributes asn1.RawValue `asn1:"optional,tag:0"`
	Algorithm  pkix.AlgorithmIdentifier
	Signature  []byte
	Others     asn1.RawValue `asn1:"optional,tag:1"`
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values asn1.RawValue // SET OF
}

// sign returns a SignedData of a content. The content of Authenticode is in it, and the signature is one of attributes
// with its digest, without the time, so that equal content gives equal bytes: RSA PKCS #1 v1.5 has no chance in it.
// Where it is not attached, the signature is one of the content itself, as the firmware's variables have it.
func (s *Signer) sign(kind asn1.ObjectIdentifier, content []byte, attached bool) ([]byte, error) {
	data, message, err := toSign(s.Certificate, kind, content, attached)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(message)
	answer, err := s.Key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign with the key of %s: %w", Name(s.Certificate), err)
	}
	return data.signedWith(answer)
}

// toSign returns a SignedData by a certificate that lacks nothing but its signature, and the message that this signs.
func toSign(
	certificate *x509.Certificate, kind asn1.ObjectIdentifier, content []byte, attached bool,
) (data signedData, message []byte, err error) {
	sha := pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}
	info := signerInfo{
		Version: 1, Digest: sha,
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue},
	}
	info.Issuer.Name = asn1.RawValue{FullBytes: certificate.RawIssuer}
	info.Issuer.Serial = certificate.SerialNumber
	data = signedData{
		Version: 1, Digests: []pkix.AlgorithmIdentifier{sha}, Content: contentInfo{Type: kind},
		Certificates: tagged(certificate.Raw),
	}
	message = content
	if attached {
		data.Content.Content = tagged(content)
		inner, err := body(content)
		if err != nil {
			return data, nil, err
		}
		sum := sha256.Sum256(inner)
		set, err := attributes(kind, sum[:])
		if err != nil {
			return data, nil, err
		}
		if message, err = asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: set}); err != nil {
			return data, nil, err
		}
		info.Attributes = tagged(set)
	}
	data.Signers = []signerInfo{info}
	return data, message, nil
}

func (d signedData) signedWith(answer []byte) ([]byte, error) {
	d.Signers[0].Signature = answer
	return asn1.Marshal(d)
}

// attributes are those that a signature must have, in the order of DER.
func attributes(kind asn1.ObjectIdentifier, digest []byte) ([]byte, error) {
	var set []byte
	for _, a := range []struct {
		kind  asn1.ObjectIdentifier
		value any
	}{{oidContentType, kind}, {oidMessageDigest, digest}} {
		value, err := asn1.Marshal(a.value)
		if err != nil {
			return nil, err
		}
		b, err := asn1.Marshal(attribute{a.kind, asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: value}})
		if err != nil {
			return nil, err
		}
		set = append(set, b...)
	}
	return set, nil
}

// tagged is content below the tag [0].
func tagged(content []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: content}
}

// body is what a DER value has behind its tag and length.
func body(der []byte) ([]byte, error) {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(der, &v)
	if err == nil && len(rest) > 0 {
		err = errors.New("something is behind it")
	}
	return v.Bytes, err
}

// parsed is a SignedData with its certificates.
type parsed struct {
	signedData
	content      []byte // DER
	certificates []*x509.Certificate
}

// parseSigned reads a SignedData, with or without the ContentInfo around it.
func parseSigned(der []byte) (*parsed, error) {
	var outer contentInfo
	if _, err := asn1.Unmarshal(der, &outer); err == nil && outer.Type.Equal(oidSignedData) {
		der = outer.Content.Bytes
	}
	p := &parsed{}
	// What fills it up to a multiple of 8 bytes may follow.
	if _, err := asn1.Unmarshal(der, &p.signedData); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	p.content = p.Content.Content.Bytes
	for rest := p.Certificates.Bytes; len(rest) > 0; {
		var raw asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &raw); err != nil {
			return nil, fmt.Errorf("signature: its certificates: %w", err)
		}
		if c, err := x509.ParseCertificate(raw.FullBytes); err == nil {
			p.certificates = append(p.certificates, c) // one that nothing here reads has signed nothing
		}
	}
	return p, nil
}

// signer returns the certificate of one who has signed, after his signature has been verified. detached is what is
// signed where it is not in the SignedData, else nil.
func (p *parsed) signer(s signerInfo, detached []byte) (*x509.Certificate, error) {
	var cert *x509.Certificate
	for _, c := range p.certificates {
		if bytes.Equal(c.RawIssuer, s.Issuer.Name.FullBytes) && c.SerialNumber.Cmp(s.Issuer.Serial) == 0 {
			cert = c
		}
	}
	if cert == nil {
		return nil, errors.New("signature: the certificate of who has signed is not in it")
	}
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok || !s.Digest.Algorithm.Equal(oidSHA256) ||
		!s.Algorithm.Algorithm.Equal(oidRSA) && !s.Algorithm.Algorithm.Equal(oidRSASHA256) {
		return nil, fmt.Errorf("signature by %s: it is not one by RSA with SHA-256", Name(cert))
	}
	inner := detached
	if inner == nil {
		var err error
		if inner, err = body(p.content); err != nil {
			return nil, fmt.Errorf("signature by %s: its content: %w", Name(cert), err)
		}
	}
	message := inner
	if len(s.Attributes.FullBytes) > 0 {
		if err := checkAttributes(s.Attributes.Bytes, p.Content.Type, inner); err != nil {
			return nil, fmt.Errorf("signature by %s: %w", Name(cert), err)
		}
		// Signed is the SET that the implicit tag stands for.
		message = bytes.Clone(s.Attributes.FullBytes)
		message[0] = asn1.TagSet | 0x20
	}
	sum := sha256.Sum256(message)
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], s.Signature); err != nil {
		return nil, fmt.Errorf("signature by %s: it is wrong", Name(cert))
	}
	return cert, nil
}

func checkAttributes(set []byte, kind asn1.ObjectIdentifier, content []byte) error {
	var contentType, digest bool
	for len(set) > 0 {
		var a attribute
		var err error
		if set, err = asn1.Unmarshal(set, &a); err != nil {
			return fmt.Errorf("attributes: %w", err)
		}
		switch {
		case a.Type.Equal(oidContentType):
			var have asn1.ObjectIdentifier
			if _, err := asn1.Unmarshal(a.Values.Bytes, &have); err != nil || !have.Equal(kind) {
				return errors.New("it is one of another kind of content")
			}
			contentType = true
		case a.Type.Equal(oidMessageDigest):
			var have []byte
			sum := sha256.Sum256(content)
			if _, err := asn1.Unmarshal(a.Values.Bytes, &have); err != nil || !bytes.Equal(have, sum[:]) {
				return errors.New("it is one of other content")
			}
			digest = true
		}
	}
	if !contentType || !digest {
		return errors.New("it says neither of what nor of which content it is")
	}
	return nil
}
