// Package secureboot signs EFI programs for Secure Boot, says who has signed one, and whether a firmware starts it.
//
// A signature (Microsoft's "Windows Authenticode Portable Executable Signature Format") is at the end of the program:
// PKCS #7 SignedData (RFC 2315) of one SpcIndirectDataContent, which has the program's digest:
//
//	SpcIndirectDataContent ::= SEQUENCE {
//	    data           SEQUENCE { type SPC_PE_IMAGE_DATAOBJ, value SpcPeImageData { no flags, file "<<<Obsolete>>>" } }
//	    messageDigest  SEQUENCE { SHA-256, OCTET STRING } }
//
// It is made by RSA PKCS #1 v1.5 with SHA-256, which every firmware takes, and has no time of signing: the same key
// signs the same program with the same bytes. github.com/foxboron/go-uefi, the library for this, stamps the time.
//
// The firmware's keys are variables: PK (the owner of the platform), KEK (who may change db and dbx), db (whose
// programs start), dbx (what starts no more). Each is a list of EFI_SIGNATURE_LIST, UEFI specification 2.10,
// section 32.4.1.
package secureboot

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/kairos-buildkit/kairos/uki"
)

// MaxKeySize bounds the file of a key or a certificate, in bytes.
const MaxKeySize = 64 << 10

var (
	oidIndirectData = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidPEImage      = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15}
)

// obsolete is the DER of SpcPeImageData's value that all programs have: no flags, and SpcLink.file with the Unicode
// text "<<<Obsolete>>>".
var obsolete = append([]byte{
	0x30, 0x25, // SpcPeImageData
	0x03, 0x01, 0x00, // flags: none
	0xa0, 0x20, // file [0]
	0xa2, 0x1e, // SpcLink.file [2]
	0x80, 0x1c, // SpcString.unicode [0]
}, utf16("<<<Obsolete>>>")...)

func utf16(s string) (b []byte) { // big endian, of ASCII
	for _, c := range []byte(s) {
		b = append(b, 0, c)
	}
	return b
}

type indirectData struct {
	Data struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	Digest struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
}

// Signer is a private key with its certificate.
type Signer struct {
	Key         crypto.Signer // RSA
	Certificate *x509.Certificate
}

// NewSigner reads a private key and its certificate, both PEM (the certificate may be DER). The key must be the
// certificate's, and RSA with 2048 to 4096 bits: other ones are not for every firmware.
func NewSigner(key, certificate []byte) (*Signer, error) {
	cert, err := ParseCertificate(certificate)
	if err != nil {
		return nil, err
	}
	k, err := ParseKey(key)
	if err != nil {
		return nil, err
	}
	public, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok || !k.PublicKey.Equal(public) {
		return nil, fmt.Errorf("the private key is not the one of the certificate %s", Name(cert))
	}
	return &Signer{k, cert}, nil
}

// ParseKey reads a private key: RSA, PEM, in PKCS #8 or PKCS #1.
func ParseKey(b []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("the private key is not PEM")
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		pkcs1, err1 := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err1 != nil {
			return nil, errors.New("the private key cannot be read: want RSA, PEM, without a passphrase")
		}
		private = pkcs1
	}
	k, ok := private.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("the private key is not RSA, which Secure Boot and TPMs need")
	}
	return k, nil
}

// CheckTime refuses a certificate that is not valid at a time. It is asked when somebody signs apart from the build:
// neither firmware nor nodes ask it, whose clocks may say anything.
func CheckTime(c *x509.Certificate, now time.Time) error {
	const day = time.DateOnly
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("the certificate %s was valid until %s: make another one of the same key, or new keys",
			Name(c), c.NotAfter.UTC().Format(day))
	case now.Before(c.NotBefore):
		return fmt.Errorf("the certificate %s is valid from %s on: look at this machine's clock", Name(c),
			c.NotBefore.UTC().Format(day))
	}
	return nil
}

// ParseCertificate reads a certificate, PEM or DER, of a key that Secure Boot takes.
func ParseCertificate(b []byte) (*x509.Certificate, error) {
	if block, rest := pem.Decode(b); block != nil {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("the file has a %s, and not a certificate", block.Type)
		}
		if len(bytes.TrimSpace(rest)) > 0 {
			return nil, errors.New("something is behind the certificate: want one, PEM or DER")
		}
		b = block.Bytes
	}
	cert, err := x509.ParseCertificate(b)
	if err != nil {
		return nil, fmt.Errorf("the certificate cannot be read: want one, PEM or DER: %w", err)
	}
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < 2048 || key.N.BitLen() > 4096 {
		return nil, fmt.Errorf("the certificate %s: Secure Boot needs RSA with 2048 to 4096 bits", Name(cert))
	}
	return cert, nil
}

// Name is what people call a certificate, with the beginning of its SHA-256 digest.
func Name(c *x509.Certificate) string {
	name := c.Subject.CommonName
	if name == "" {
		name = c.Subject.String()
	}
	sum := sha256.Sum256(c.Raw)
	return fmt.Sprintf("%q (%x)", name, sum[:6])
}

// Sign returns an EFI program with the signature at its end. One that has it already stays as it is; one that somebody
// else has signed is refused.
func (s *Signer) Sign(program []byte) ([]byte, error) {
	if uki.Signed(program) {
		if err := SignedBy(program, s.Certificate); err != nil {
			return nil, fmt.Errorf("it is signed already: %w", err)
		}
		return program, nil
	}
	signature, err := s.Detached(program)
	if err != nil {
		return nil, err
	}
	return uki.Attach(program, signature)
}

// indirect is the content that a program's signature signs, in DER.
func indirect(program []byte) ([]byte, error) {
	sum, err := uki.Authenticode(program)
	if err != nil {
		return nil, err
	}
	content := indirectData{}
	content.Data.Type, content.Data.Value = oidPEImage, asn1.RawValue{FullBytes: obsolete}
	content.Digest.Algorithm = pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}
	content.Digest.Digest = sum[:]
	return asn1.Marshal(content)
}

// whole is what a program has: it has the ContentInfo around the SignedData, a variable has not.
func whole(signed []byte) ([]byte, error) {
	return asn1.Marshal(contentInfo{oidSignedData, tagged(signed)})
}

// ErrOther says that a signature is not one of this program.
var ErrOther = errors.New("it is one of another program, or the program was changed")

// ErrUnsigned says that a program has no signature.
var ErrUnsigned = errors.New("it is not signed for Secure Boot")

// chain is a signature of a program that has been verified: the signer's certificate, and the others beside it.
type chain struct {
	signer *x509.Certificate
	others []*x509.Certificate
}

// chains verifies a program's signatures: one that is wrong, or of another program, is an error.
func chains(program []byte) (list []chain, err error) {
	signatures, err := uki.Signatures(program)
	if err != nil {
		return nil, err
	}
	if len(signatures) == 0 {
		return nil, ErrUnsigned
	}
	sum, err := uki.Authenticode(program)
	if err != nil {
		return nil, err
	}
	var wrong []error
	for _, der := range signatures {
		c, err := verify(der, sum)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, errors.Join(wrong...)
	}
	return list, nil
}

func verify(der []byte, digest [sha256.Size]byte) (c chain, err error) {
	p, err := parseSigned(der)
	if err != nil {
		return c, err
	}
	var content indirectData
	if !p.Content.Type.Equal(oidIndirectData) || len(p.Signers) != 1 {
		return c, errors.New("signature: it is none of a program")
	}
	if _, err := asn1.Unmarshal(p.content, &content); err != nil {
		return c, fmt.Errorf("signature: its content: %w", err)
	}
	cert, err := p.signer(p.Signers[0], nil)
	if err != nil {
		return c, err
	}
	if !content.Digest.Algorithm.Algorithm.Equal(oidSHA256) || !bytes.Equal(content.Digest.Digest, digest[:]) {
		return c, fmt.Errorf("signature by %s: %w", Name(cert), ErrOther)
	}
	return chain{cert, p.certificates}, nil
}

// SignedBy says whether the key of a certificate has signed a program, as it is.
func SignedBy(program []byte, cert *x509.Certificate) error {
	list, err := chains(program)
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.signer.Equal(cert) {
			return nil
		}
	}
	return fmt.Errorf("it is signed by %s, and not by %s", Name(list[0].signer), Name(cert))
}
