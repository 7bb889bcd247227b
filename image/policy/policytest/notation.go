package policytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/signer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/layout"
)

// Signer signs as notation does: with a certificate.
type Signer struct {
	key   crypto.PrivateKey
	chain []*x509.Certificate
	Root  []byte // PEM
}

// NewSigner makes a certificate that is its own root.
func NewSigner(t testing.TB, cn string) Signer {
	t.Helper()
	cert, key := certificate(t, cn, nil, nil, nil)
	return Signer{key, []*x509.Certificate{cert}, pemOf(cert)}
}

// NewChain makes a certificate with a root above it.
func NewChain(t testing.TB, cn string) Signer {
	t.Helper()
	root, rootKey := certificate(t, cn+" root", nil, nil, authority)
	leaf, key := certificate(t, cn, root, rootKey, nil)
	return Signer{key, []*x509.Certificate{leaf, root}, pemOf(root)}
}

// authority makes a certificate a CA's.
func authority(c *x509.Certificate) {
	c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
}

// certificate makes one that the specification of the Notary Project allows, with a change.
func certificate(
	t testing.TB, cn string, issuer *x509.Certificate, by *ecdsa.PrivateKey, change func(*x509.Certificate),
) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		Subject: pkix.Name{CommonName: cn, Organization: []string{"Example"}, Country: []string{"DE"},
			Province: []string{"B"}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true,
	}
	if change != nil {
		change(c)
	}
	if issuer == nil {
		issuer, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// Name is the subject of the certificate.
func (s Signer) Name() string { return s.chain[0].Subject.String() }

// Notate attaches a signature of one image to another one, as a rule the same, in a form: application/jose+json or
// application/cose.
func (s Signer) Notate(t testing.TB, of, to name.Digest, form string) {
	t.Helper()
	d, err := remote.Get(of)
	if err != nil {
		t.Fatal(err)
	}
	signs, err := signer.NewGenericSigner(s.key, s.chain)
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := signs.Sign(t.Context(), ocispec.Descriptor{
		MediaType: string(d.MediaType), Digest: digest.Digest(d.Digest.String()), Size: d.Size,
	}, notation.SignerSignOptions{SignatureMediaType: form})
	if err != nil {
		t.Fatal(err)
	}
	AttachAs(t, to, layout.NotationType, form, nil, b)
}
