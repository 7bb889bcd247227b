package policy

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
)

// trusted is what a requirement trusts, with the files that it names read.
type trusted struct {
	root.BaseTrustedMaterial
	keys     []publicKey
	cas      []root.CertificateAuthority
	logs     map[string]*root.TransparencyLog // by ID
	identity *verify.CertificateIdentity      // of whoever has a certificate; nil: keys have to sign
}

// FulcioCertificateAuthorities implements root.TrustedMaterial.
func (t *trusted) FulcioCertificateAuthorities() []root.CertificateAuthority { return t.cas }

// RekorLogs implements root.TrustedMaterial.
func (t *trusted) RekorLogs() map[string]*root.TransparencyLog { return t.logs }

// withKey trusts one of the keys, whatever a signature says of whose it is.
type withKey struct {
	*trusted
	verifier signature.Verifier
}

// PublicKeyVerifier implements root.TrustedMaterial.
func (w withKey) PublicKeyVerifier(string) (root.TimeConstrainedVerifier, error) {
	return root.NewExpiringKey(w.verifier, time.Time{}, time.Time{}), nil
}

// loader makes a verifier of a key: what hash belongs to it depends on the format of signatures.
type loader func(crypto.PublicKey) (signature.Verifier, error)

// trusted reads the files that a requirement names.
func (r requirement) trusted(files fs.FS) (t *trusted, err error) {
	t = &trusted{logs: map[string]*root.TransparencyLog{}}
	if t.keys, err = r.keys.publicKeys(files, "key"); err != nil {
		return nil, err
	}
	logs, err := r.rekor.publicKeys(files, "rekorPublicKey")
	if err != nil {
		return nil, err
	}
	for _, l := range logs {
		t.logs[l.id.Hex()] = &root.TransparencyLog{
			ID: []byte(l.id.Hex()), PublicKey: l.key, HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
			// The policy has no times for a log's key: it is good as long as the policy has it.
			ValidityPeriodStart: time.Unix(1, 0),
		}
	}
	if r.fulcio == nil {
		return t, nil
	}
	cas, err := r.fulcio.ca.read(files, "ca")
	if err != nil {
		return nil, err
	}
	for _, f := range cas {
		certs, err := cryptoutils.UnmarshalCertificatesFromPEM(f.content)
		if err == nil && len(certs) == 0 {
			err = errors.New("it has no certificate")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		for _, c := range certs {
			t.cas = append(t.cas, &root.FulcioCertificateAuthority{Root: c})
		}
	}
	id, err := verify.NewShortCertificateIdentity(r.fulcio.issuer, "", r.fulcio.subject, "")
	t.identity = &id
	return t, err
}

// verify says who has made the signature that a bundle has, over an artifact.
func (t *trusted) verify(
	b *bundle.Bundle, load loader, artifact func() verify.ArtifactPolicyOption,
) (signer string, r *verify.VerificationResult, err error) {
	var o []verify.VerifierOption
	if len(t.logs) > 0 {
		o = append(o, verify.WithTransparencyLog(1))
	}
	if t.identity != nil {
		// A certificate is good for minutes: the log says that the signature was made in them.
		v, err := verify.NewVerifier(t, append(o, verify.WithIntegratedTimestamps(1))...)
		if err != nil {
			return "", nil, err
		}
		r, err := v.Verify(b, verify.NewPolicy(artifact(), verify.WithCertificateIdentity(*t.identity)))
		if err != nil {
			return "", nil, err
		}
		c := r.Signature.Certificate
		return c.SubjectAlternativeName + " (" + c.Issuer + ")", r, nil
	}
	var why []string
	for _, k := range t.keys {
		verifier, err := load(k.key)
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", k.name, err)
		}
		v, err := verify.NewVerifier(withKey{t, verifier}, append(o, verify.WithNoObserverTimestamps())...)
		if err != nil {
			return "", nil, err
		}
		if r, err = v.Verify(b, verify.NewPolicy(artifact(), verify.WithKey())); err == nil {
			return k.name, r, nil
		}
		why = append(why, fmt.Sprintf("%s: %v", k.name, err))
	}
	return "", nil, fmt.Errorf("it is none of %s", strings.Join(why, ", "))
}

// The annotations of a claim's signature that was made with a certificate, or is in a log.
const (
	certificateAnnotation = "dev.sigstore.cosign/certificate"
	chainAnnotation       = "dev.sigstore.cosign/chain"
	logAnnotation         = "dev.sigstore.cosign/bundle"
)

// check implements signed.
func (c claim) check(t *trusted, s Subject, wants identity) (signer string, err error) {
	if text := c.annotations[chainAnnotation]; text != "" {
		chain, err := cryptoutils.UnmarshalCertificatesFromPEM([]byte(text))
		if err != nil {
			return "", fmt.Errorf("annotation %s: %w", chainAnnotation, err)
		}
		t = t.by(chain)
	}
	b, err := c.bundle()
	if err != nil {
		return "", err
	}
	signer, _, err = t.verify(b,
		func(k crypto.PublicKey) (signature.Verifier, error) { return signature.LoadVerifier(k, crypto.SHA256) },
		func() verify.ArtifactPolicyOption { return verify.WithArtifact(bytes.NewReader(c.payload)) })
	if err != nil {
		return "", err
	}
	return signer, c.fits(s, wants)
}

// by takes certificates that are not trusted for those between a trusted one and that of a signature.
func (t *trusted) by(chain []*x509.Certificate) *trusted {
	with := *t
	with.cas = nil
	for _, c := range t.cas {
		if ca, ok := c.(*root.FulcioCertificateAuthority); ok {
			with.cas = append(with.cas, &root.FulcioCertificateAuthority{Root: ca.Root, Intermediates: chain})
		}
	}
	return &with
}

// bundle is the claim in sigstore's format.
func (c claim) bundle() (*bundle.Bundle, error) {
	sum := sha256.Sum256(c.payload)
	material := &protobundle.VerificationMaterial{
		Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}},
	}
	if text := c.annotations[certificateAnnotation]; text != "" {
		certs, err := cryptoutils.UnmarshalCertificatesFromPEM([]byte(text))
		if err == nil && len(certs) != 1 {
			err = fmt.Errorf("%d certificates", len(certs))
		}
		if err != nil {
			return nil, fmt.Errorf("annotation %s: %w", certificateAnnotation, err)
		}
		material.Content = &protobundle.VerificationMaterial_Certificate{
			Certificate: &protocommon.X509Certificate{RawBytes: certs[0].Raw},
		}
	}
	if text := c.annotations[logAnnotation]; text != "" {
		entry, err := logEntry([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("annotation %s: %w", logAnnotation, err)
		}
		material.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	}
	return bundle.NewBundle(&protobundle.Bundle{
		// The one that has a log's promise, and no proof.
		MediaType:            "application/vnd.dev.sigstore.bundle+json;version=0.1",
		VerificationMaterial: material,
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
			Signature:     c.signature,
		}},
	})
}

// logEntry reads what a log has promised, as cosign keeps it.
func logEntry(b []byte) (*protorekor.TransparencyLogEntry, error) {
	var set struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		}
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, err
	}
	var kind struct {
		Kind    string `json:"kind"`
		Version string `json:"apiVersion"`
	}
	if err := json.Unmarshal(set.Payload.Body, &kind); err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(set.Payload.LogID)
	return &protorekor.TransparencyLogEntry{
		LogIndex: set.Payload.LogIndex, LogId: &protocommon.LogId{KeyId: id},
		IntegratedTime:    set.Payload.IntegratedTime,
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.Version},
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: set.SignedEntryTimestamp},
		CanonicalizedBody: set.Payload.Body,
	}, err
}

// What is known of bundles beside an image.
const (
	signPredicate = "https://sigstore.dev/cosign/sign/v1"
	maxBundle     = 1 << 20 // bytes
)

// attached is a bundle beside an image: a statement that says which image somebody has signed.
type attached struct {
	*bundle.Bundle
	statement statement
}

// statement is what is read of one of in-toto's.
type statement struct {
	Predicate string `json:"predicateType"`
	Subjects  []struct {
		Name   string            `json:"name"`
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
}

// bundles returns the signatures beside an image in sigstore's format. Other statements, such as what an image was
// built from, are left out: they say nothing of whether it may be used.
func bundles(ctx context.Context, s Subject) (all []signed, err error) {
	for _, digest := range s.digests() {
		list, err := s.from.Referrers(ctx, digest, layout.BundleType)
		if err != nil {
			return nil, fmt.Errorf("signatures of %s: %w", digest, err)
		}
		for _, d := range list[:min(len(list), maxSignatures)] {
			b, err := readBundle(ctx, s.from, d)
			if err != nil {
				return nil, fmt.Errorf("signature %s: %w", d.Digest, err)
			}
			if b != nil {
				all = append(all, b)
			}
		}
	}
	return all, nil
}

// readBundle returns nil where an artifact is no signature.
func readBundle(ctx context.Context, from image.Blobs, d ocispec.Descriptor) (signed, error) {
	d.MediaType = ocispec.MediaTypeImageManifest
	raw, err := image.ReadBlob(ctx, from, d)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return broken{err}, nil //nolint:nilerr // it is one that cannot be read
	}
	if m.ArtifactType != layout.BundleType || len(m.Layers) != 1 || m.Layers[0].MediaType != layout.BundleType {
		return nil, nil
	}
	if size := m.Layers[0].Size; size > maxBundle {
		return broken{fmt.Errorf("it has %d bytes, more than %d", size, maxBundle)}, nil
	}
	if raw, err = image.ReadBlob(ctx, from, m.Layers[0]); err != nil {
		return nil, err
	}
	a := &attached{Bundle: &bundle.Bundle{}}
	if err := a.UnmarshalJSON(raw); err != nil {
		return broken{err}, nil //nolint:nilerr // it is one that cannot be read
	}
	envelope := a.GetDsseEnvelope()
	if envelope == nil || json.Unmarshal(envelope.GetPayload(), &a.statement) != nil ||
		a.statement.Predicate != signPredicate {
		return nil, nil
	}
	return a, nil
}

// check implements signed.
func (a *attached) check(t *trusted, s Subject, wants identity) (signer string, err error) {
	for _, of := range a.statement.Subjects {
		if err = s.has("sha256:" + of.Digest["sha256"]); err != nil {
			continue
		}
		if of.Name == "" {
			return "", errors.New("it is for an image without a name, as cosign 3 signs: sign with " +
				"`cosign sign --new-bundle-format=false`, or `cosign attest --type " + signPredicate + "`")
		}
		if err = wants.accepts(s.name, of.Name); err != nil {
			continue
		}
		sum, err := hex.DecodeString(of.Digest["sha256"])
		if err != nil {
			return "", err
		}
		// The statement is the one that was looked at: its bytes are what is signed.
		signer, _, err = t.verify(a.Bundle,
			func(k crypto.PublicKey) (signature.Verifier, error) { return signature.LoadDefaultVerifier(k) },
			func() verify.ArtifactPolicyOption { return verify.WithArtifactDigest("sha256", sum) })
		return signer, err
	}
	if err == nil {
		err = errors.New("it is for no image")
	}
	return "", err
}
