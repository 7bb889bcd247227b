package policytest

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kairos-buildkit/kairos/layout"
)

// Sigstore is one of its own: a CA, a log, and people who have certificates.
type Sigstore struct{ *ca.VirtualSigstore }

// NewSigstore makes one.
func NewSigstore(t testing.TB) Sigstore {
	t.Helper()
	s, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	return Sigstore{s}
}

func (s Sigstore) authority() *root.FulcioCertificateAuthority {
	return s.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority)
}

// CA is the certificate of the CA, and those between it and the certificates that it gives.
func (s Sigstore) CA(t testing.TB) (root, between []byte) {
	t.Helper()
	a := s.authority()
	root, err := cryptoutils.MarshalCertificateToPEM(a.Root)
	if err != nil {
		t.Fatal(err)
	}
	between, err = cryptoutils.MarshalCertificatesToPEM(a.Intermediates)
	if err != nil {
		t.Fatal(err)
	}
	return root, between
}

// LogKey is the log's public key.
func (s Sigstore) LogKey(t testing.TB) []byte {
	t.Helper()
	for _, l := range s.RekorLogs() {
		b, err := cryptoutils.MarshalPublicKeyToPEM(l.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return nil
}

// Claim is a claim's signature by an identity, as a layer, with its certificate and what the log has promised. The
// certificate is that of the time, in minutes from now, that the log says.
func (s Sigstore) Claim(t testing.TB, claim []byte, identity, issuer string, minutes int) mutate.Addendum {
	t.Helper()
	e, err := s.SignAtTime(identity, issuer, claim, time.Now().Add(time.Duration(minutes)*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	signature, leaf := signed(t, e)
	cert, err := cryptoutils.MarshalCertificateToPEM(leaf)
	if err != nil {
		t.Fatal(err)
	}
	p := s.entry(t, e)
	more := promise(t, p.GetInclusionPromise().GetSignedEntryTimestamp(), promised(p))
	r, between := s.CA(t)
	more["dev.sigstore.cosign/certificate"] = string(cert)
	more["dev.sigstore.cosign/chain"] = string(append(between, r...))
	return Layer(claim, signature, more)
}

// signed is a signature, and the certificate that it was made with.
func signed(t testing.TB, e *ca.TestEntity) (signature []byte, leaf *x509.Certificate) {
	t.Helper()
	content, err := e.SignatureContent()
	if err != nil {
		t.Fatal(err)
	}
	with, err := e.VerificationContent()
	if err != nil {
		t.Fatal(err)
	}
	return content.Signature(), with.Certificate()
}

// Workflow is a claim's signature by a certificate for a URI, as those of workflows are, in this log, with the CA of
// that certificate.
func (s Sigstore) Workflow(t testing.TB, claim []byte, uri, issuer string) (ca []byte, layer mutate.Addendum) {
	t.Helper()
	root, rootKey := certificate(t, "CA", nil, nil, authority)
	leaf, key := certificate(t, "", root, rootKey, func(c *x509.Certificate) {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		by, err := asn1.MarshalWithParams(issuer, "utf8")
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = []*url.URL{u}
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: by}}
	})
	signature, err := KeyOf(t, key).SignMessage(bytes.NewReader(claim))
	if err != nil {
		t.Fatal(err)
	}
	more := s.Logged(t, claim, signature, pemOf(leaf))
	more["dev.sigstore.cosign/certificate"] = string(pemOf(leaf))
	return pemOf(root), Layer(claim, signature, more)
}

// Logged is what the log promises of a key's signature of a claim.
func (s Sigstore) Logged(t testing.TB, claim, signature, key []byte) map[string]string {
	t.Helper()
	sum := crypto.SHA256.New()
	sum.Write(claim)
	body, err := json.Marshal(map[string]any{
		"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": map[string]any{
			"data": map[string]any{"hash": map[string]any{
				"algorithm": "sha256", "value": hex.EncodeToString(sum.Sum(nil)),
			}},
			"signature": map[string]any{"content": signature, "publicKey": map[string]any{"content": key}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.RekorLogID()
	if err != nil {
		t.Fatal(err)
	}
	payload := tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(body), IntegratedTime: time.Now().Unix(), LogIndex: 7, LogID: id,
	}
	set, err := s.RekorSignPayload(payload)
	if err != nil {
		t.Fatal(err)
	}
	return promise(t, set, payload)
}

// entry is an entry of the log with all that a bundle has of it.
func (s Sigstore) entry(t testing.TB, e verify.SignedEntity) *protorekor.TransparencyLogEntry {
	t.Helper()
	entries, err := e.TlogEntries()
	if err != nil {
		t.Fatal(err)
	}
	p := entries[0].TransparencyLogEntry()
	var kind struct {
		Kind    string `json:"kind"`
		Version string `json:"apiVersion"`
	}
	if err := json.Unmarshal(p.GetCanonicalizedBody(), &kind); err != nil {
		t.Fatal(err)
	}
	set, err := s.RekorSignPayload(promised(p))
	if err != nil {
		t.Fatal(err)
	}
	p.KindVersion = &protorekor.KindVersion{Kind: kind.Kind, Version: kind.Version}
	p.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: set}
	return p
}

func promised(p *protorekor.TransparencyLogEntry) tlog.RekorPayload {
	return tlog.RekorPayload{
		Body:           base64.StdEncoding.EncodeToString(p.GetCanonicalizedBody()),
		IntegratedTime: p.GetIntegratedTime(), LogIndex: p.GetLogIndex(),
		LogID: hex.EncodeToString(p.GetLogId().GetKeyId()),
	}
}

// promise is what the log has promised, as cosign keeps it.
func promise(t testing.TB, set []byte, payload tlog.RekorPayload) map[string]string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"SignedEntryTimestamp": set, "Payload": payload})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"dev.sigstore.cosign/bundle": string(b)}
}

// Statement is what a bundle signs: of a predicate, about an image by a name.
func Statement(t testing.TB, predicate, as string, image name.Digest) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": predicate, "predicate": map[string]any{},
		"subject": []any{map[string]any{
			"name": as, "digest": map[string]string{"sha256": image.DigestStr()[len("sha256:"):]},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const payloadType = "application/vnd.in-toto+json"

// Bundle is a statement that an identity has signed.
func (s Sigstore) Bundle(t testing.TB, statement []byte, identity, issuer string) []byte {
	t.Helper()
	e, err := s.AttestAtTime(identity, issuer, statement, time.Now().Add(5*time.Minute), true)
	if err != nil {
		t.Fatal(err)
	}
	signature, leaf := signed(t, e)
	return marshal(t, &protobundle.Bundle{
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_Certificate{
				Certificate: &protocommon.X509Certificate{RawBytes: leaf.Raw},
			},
			TlogEntries: []*protorekor.TransparencyLogEntry{s.entry(t, e)},
		},
		Content: envelope(statement, signature),
	})
}

// Bundle is a statement that the key has signed.
func (k Key) Bundle(t testing.TB, statement []byte) []byte {
	t.Helper()
	s, err := k.SignMessage(bytes.NewReader(dsse.PAE(payloadType, statement)))
	if err != nil {
		t.Fatal(err)
	}
	return marshal(t, &protobundle.Bundle{
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{
				PublicKey: &protocommon.PublicKeyIdentifier{Hint: "x"},
			},
		},
		Content: envelope(statement, s),
	})
}

func envelope(statement, signature []byte) *protobundle.Bundle_DsseEnvelope {
	return &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
		Payload: statement, PayloadType: payloadType, Signatures: []*protodsse.Signature{{Sig: signature}},
	}}
}

func marshal(t testing.TB, b *protobundle.Bundle) []byte {
	t.Helper()
	b.MediaType = layout.BundleType
	out, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Attach pushes a bundle as what refers to an image.
func Attach(t testing.TB, image name.Digest, bundle []byte) {
	AttachAs(t, image, layout.BundleType, layout.BundleType, nil, bundle)
}

// AttachAs pushes an artifact of a type that refers to an image, with one blob.
func AttachAs(
	t testing.TB, image name.Digest, artifactType, blobType string, annotations map[string]string, blob []byte,
) {
	t.Helper()
	subject, err := remote.Get(image)
	if err != nil {
		t.Fatal(err)
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType, Config: ocispec.DescriptorEmptyJSON, Annotations: annotations,
		Layers: []ocispec.Descriptor{{
			MediaType: blobType, Digest: digest.FromBytes(blob), Size: int64(len(blob)),
		}},
		Subject: &ocispec.Descriptor{
			MediaType: string(subject.MediaType), Digest: digest.Digest(subject.Digest.String()), Size: subject.Size,
		},
	}
	// Registries that are older than the field take the config's type for the artifact's.
	m.Config.Data, m.Config.MediaType = nil, artifactType
	for _, b := range [][]byte{blob, []byte("{}")} {
		if err := remote.WriteLayer(image.Context(), static.NewLayer(b, types.MediaType(blobType))); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Put(image.Context().Digest(digest.FromBytes(b).String()), manifest(b)); err != nil {
		t.Fatal(err)
	}
}

// manifest is one that is pushed as it is.
type manifest []byte

// RawManifest implements remote.Taggable.
func (m manifest) RawManifest() ([]byte, error) { return m, nil }

// MediaType implements partial.Describable.
func (m manifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
