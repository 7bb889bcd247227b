package secureboot

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// Keys are what a firmware's owner has.
type Keys struct {
	PK, KEK, DB *Signer
	// Owner is in each signature of the lists: the beginning of the PK certificate's digest.
	Owner GUID
}

// validity of certificates, in years: firmware looks at no dates.
const validity = 20

// NewKeys makes the three keys of an owner, as the certificates name him. They are RSA with 2048 bits, which each
// firmware takes.
func NewKeys(name string, now time.Time) (*Keys, error) {
	k := &Keys{}
	for _, one := range []struct {
		what string
		to   **Signer
	}{{"PK", &k.PK}, {"KEK", &k.KEK}, {"db", &k.DB}} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
		if err != nil {
			return nil, err
		}
		template := &x509.Certificate{
			SerialNumber: serial, Subject: pkix.Name{CommonName: name + " " + one.what},
			NotBefore: now.UTC().Truncate(time.Second), NotAfter: now.UTC().AddDate(validity, 0, 0),
			BasicConstraintsValid: true, SignatureAlgorithm: x509.SHA256WithRSA,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return nil, fmt.Errorf("certificate of %s: %w", one.what, err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		*one.to = &Signer{key, cert}
	}
	k.Owner = OwnerOf(k.PK.Certificate)
	return k, nil
}

// OwnerOf is the owner whom the certificate of a PK names, see [Keys].
func OwnerOf(pk *x509.Certificate) GUID {
	sum := sha256.Sum256(pk.Raw)
	return GUID(sum[:16])
}

// CertificatePEM is the certificate's file.
func (s *Signer) CertificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate.Raw})
}

// KeyPEM is the private key's file, in PKCS #8.
func (s *Signer) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Enrolment returns the files that give a firmware in setup mode these keys: PK, KEK and db by their names, each
// one the content of a variable that the next higher key has signed (PK itself). Further certificates are added to
// KEK and db.
func (k *Keys) Enrolment(now time.Time, kek, db []*x509.Certificate) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, v := range []struct {
		name, vendor string
		by           *Signer
		certificates []*x509.Certificate
	}{
		{"PK", vendorGlobal, k.PK, []*x509.Certificate{k.PK.Certificate}},
		{"KEK", vendorGlobal, k.PK, slices.Concat([]*x509.Certificate{k.KEK.Certificate}, kek)},
		{"db", vendorSecurity, k.KEK, slices.Concat([]*x509.Certificate{k.DB.Certificate}, db)},
	} {
		list := Database{Certificates: v.certificates}.Marshal(k.Owner)
		b, err := v.by.variable(v.name, v.vendor, list, variableAttributes, now)
		if err != nil {
			return nil, err
		}
		files[v.name] = b
	}
	return files, nil
}

// variableAttributes are non-volatile, seen by boot loader and system, authenticated by time.
const variableAttributes = 0x01 | 0x02 | 0x04 | 0x20

// pkcs7GUID is EFI_CERT_TYPE_PKCS7_GUID.
var pkcs7GUID = GUID([]byte("\x9d\xd2\xaf\x4a\xdf\x68\xee\x49\x8a\xa9\x34\x7d\x37\x56\x65\xa7"))

// variable is what SetVariable takes of an authenticated variable: EFI_VARIABLE_AUTHENTICATION_2, UEFI
// specification 2.10, section 8.2.2, with a signature of [signedPart].
func (s *Signer) variable(name, vendor string, content []byte, attributes uint32, now time.Time) ([]byte, error) {
	now = now.UTC()
	stamp := le.AppendUint16(nil, uint16(now.Year()))
	stamp = append(stamp, byte(now.Month()), byte(now.Day()))
	stamp = append(stamp, byte(now.Hour()), byte(now.Minute()), byte(now.Second()), 0)
	stamp = append(stamp, make([]byte, 8)...) // nanoseconds, time zone, daylight: zero as the specification asks
	signed, err := signedPart(name, vendor, attributes, stamp, content)
	if err != nil {
		return nil, err
	}
	der, err := s.sign(oidData, signed, false)
	if err != nil {
		return nil, fmt.Errorf("firmware's variable %s: %w", name, err)
	}
	b := le.AppendUint32(stamp, uint32(8+16+len(der)))
	b = le.AppendUint16(b, 0x0200) // revision
	b = le.AppendUint16(b, 0x0ef1) // WIN_CERT_TYPE_EFI_GUID
	return slices.Concat(b, pkcs7GUID[:], der, content), nil
}

// signedPart is what is signed of a variable: name, vendor, attributes, time and content.
func signedPart(name, vendor string, attributes uint32, stamp, content []byte) (signed []byte, err error) {
	for _, c := range []byte(name) {
		signed = append(signed, c, 0)
	}
	guid, err := parseGUID(vendor)
	if err != nil {
		return nil, err
	}
	signed = append(signed, guid[:]...)
	signed = le.AppendUint32(signed, attributes)
	return slices.Concat(signed, stamp, content), nil
}

// variableHeader is what is before the signature: a time, and a WIN_CERTIFICATE with the GUID of its kind.
const variableHeader = 16 + 8 + 16

// Variable is what a file of [Keys.Enrolment] gives a variable.
type Variable struct {
	Vendor     GUID
	Attributes uint32
	Time       [16]byte // EFI_TIME of its signature
	Content    []byte   // see [ParseDatabase]
}

// ParseEnrolment reads a file of [Keys.Enrolment], by the variable's name. Whether its signature is the one that a
// firmware wants, only that firmware says.
func ParseEnrolment(name string, b []byte) (v Variable, err error) {
	vendor := vendorGlobal
	if name == "db" || name == "dbx" {
		vendor = vendorSecurity
	}
	if v.Vendor, err = parseGUID(vendor); err != nil {
		return v, err
	}
	v.Attributes = variableAttributes
	stamp, _, content, err := splitVariable(b)
	if err != nil {
		return v, err
	}
	v.Time, v.Content = [16]byte(stamp), content
	_, err = ParseDatabase(v.Content)
	return v, err
}

// splitVariable parts what [Signer.variable] makes.
func splitVariable(b []byte) (stamp, signature, content []byte, err error) {
	if len(b) < variableHeader || le.Uint16(b[22:]) != 0x0ef1 || GUID(b[24:40]) != pkcs7GUID {
		return nil, nil, nil, errors.New("it is not a signed variable, as `kairos keys new --secure-boot` makes them")
	}
	n := uint64(le.Uint32(b[16:])) + 16
	if n < variableHeader || n > uint64(len(b)) {
		return nil, nil, nil, errors.New("signed variable: it is cut")
	}
	return b[:16], b[variableHeader:n], b[n:], nil
}

func parseGUID(s string) (g GUID, err error) {
	var a uint32
	var b, c, d uint16
	var e uint64
	if _, err := fmt.Sscanf(s, "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e); err != nil {
		return g, fmt.Errorf("GUID %s: %w", s, err)
	}
	le.PutUint32(g[:], a)
	le.PutUint16(g[4:], b)
	le.PutUint16(g[6:], c)
	g[8], g[9] = byte(d>>8), byte(d)
	for i := range 6 {
		g[10+i] = byte(e >> (8 * (5 - i)))
	}
	return g, nil
}
