package policy

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	_ "github.com/notaryproject/notation-core-go/signature/cose" // a form of signatures
	_ "github.com/notaryproject/notation-core-go/signature/jws"  // the other one
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/internal/follow"
	"github.com/kairos-buildkit/kairos/layout"
)

// trustStoreDir has the certificates of a trust policy's stores, TYPE/NAME/FILE, in an image and on a node.
const trustStoreDir = "etc/notation/truststore/x509"

// trustPolicy is one of the Notary Project's: who has to have signed an image, by where it comes from.
type trustPolicy struct{ document trustpolicy.Document }

// parseTrust reads a trust policy of version 1.0.
func parseTrust(b []byte) (*trustPolicy, error) {
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	p := &trustPolicy{}
	if err := d.Decode(&p.document); err != nil {
		return nil, err
	}
	return p, p.document.Validate()
}

// maxEnvelope bounds a signature of notation's in bytes.
const maxEnvelope = 1 << 20

// check is [Found.Check] for a trust policy. A signature is of a digest, in whichever
// repository: registryScopes say whose count where.
func (p *trustPolicy) check(ctx context.Context, s Subject, root fs.FS) ([]api.Acceptance, error) {
	if len(s.descs) == 0 {
		return nil, refuse("the image has no manifest there, so it cannot be signed: take it from a registry")
	}
	repository := "local/" + s.transport
	if s.name != nil {
		repository = s.name.Name()
	}
	statement, err := p.document.GetApplicableTrustPolicy(repository + "@" + s.descs[0].Digest.String())
	if err != nil {
		return nil, refuse("no statement is for %s (registryScopes)", repository)
	}
	level, err := statement.SignatureVerification.GetVerificationLevel()
	if err != nil {
		return nil, refuse("%s: %v", statement.Name, err)
	}
	accepted := api.Acceptance{Scope: statement.Name, Requirement: "notation " + level.Name}
	if level.Name == trustpolicy.LevelSkip.Name {
		return []api.Acceptance{accepted}, nil
	}
	if s.from == nil {
		return nil, refuse("%s: nothing can be beside the image there, so it is not signed: take it from a registry",
			statement.Name)
	}
	v, err := verifier.NewWithOptions(&p.document, trustStore{root}, nil, verifier.VerifierOptions{})
	if err != nil {
		return nil, err
	}
	var why []string
	for _, desc := range s.descs {
		list, err := s.from.Referrers(ctx, layout.Digest(desc.Digest), layout.NotationType)
		if err != nil {
			return nil, fmt.Errorf("signatures of %s: %w", desc.Digest, err)
		}
		for _, d := range list[:min(len(list), maxSignatures)] {
			kind, blob, err := readEnvelope(ctx, s.from, d)
			if err != nil {
				return nil, fmt.Errorf("signature %s: %w", d.Digest, err)
			}
			if kind == "" {
				continue
			}
			outcome, err := v.Verify(ctx, desc, blob, notation.VerifierVerifyOptions{
				ArtifactReference: repository + "@" + desc.Digest.String(), SignatureMediaType: kind,
			})
			if err == nil {
				accepted.Signers = authentic(outcome)
				return []api.Acceptance{accepted}, nil
			}
			why = append(why, err.Error())
		}
	}
	if len(why) == 0 {
		return nil, refuse("%s: the image %s is not signed: sign it with notation", statement.Name, s.descs[0].Digest)
	}
	return nil, refuse("%s: of %d signatures none is accepted: %s", statement.Name, len(why), strings.Join(why, "; "))
}

// authentic says whose signature it is, where its certificate is trusted: a trust policy may only audit that.
func authentic(o *notation.VerificationOutcome) []string {
	for _, r := range o.VerificationResults {
		if r.Type == trustpolicy.TypeAuthenticity && r.Error == nil {
			return []string{o.EnvelopeContent.SignerInfo.CertificateChain[0].Subject.String()}
		}
	}
	return nil
}

// readEnvelope returns the media type and bytes of a signature; none where an artifact has no such one.
func readEnvelope(ctx context.Context, from image.Blobs, d ocispec.Descriptor) (kind string, blob []byte, err error) {
	d.MediaType = ocispec.MediaTypeImageManifest
	b, err := image.ReadBlob(ctx, from, d)
	if err != nil {
		return "", nil, err
	}
	var m ocispec.Manifest
	if json.Unmarshal(b, &m) != nil || len(m.Layers) != 1 || m.Layers[0].Size > maxEnvelope ||
		m.ArtifactType != layout.NotationType && m.Config.MediaType != layout.NotationType {
		return "", nil, nil
	}
	blob, err = image.ReadBlob(ctx, from, m.Layers[0])
	return m.Layers[0].MediaType, blob, err
}

// trustStore has the certificates of a trust policy's trustStores.
type trustStore struct{ root fs.FS }

// GetCertificates implements truststore.X509TrustStore.
func (s trustStore) GetCertificates(
	_ context.Context, kind truststore.Type, name string,
) (all []*x509.Certificate, err error) {
	dir := path.Join(trustStoreDir, string(kind), name)
	if path.Dir(dir) != path.Join(trustStoreDir, string(kind)) {
		return nil, fmt.Errorf("trust store %s:%s: the name has a / in it", kind, name)
	}
	real, _, err := follow.Links(s.root, dir)
	var files []fs.DirEntry
	if err == nil {
		files, err = fs.ReadDir(s.root, real)
	}
	if err != nil {
		return nil, fmt.Errorf("trust store %s:%s: %w", kind, name, err)
	}
	for _, f := range files {
		b, err := readFile(s.root, path.Join(dir, f.Name()), maxKeySize)
		var certs []*x509.Certificate
		if err == nil {
			certs, err = certificates(b)
		}
		if err == nil {
			err = truststore.ValidateCertificates(certs)
		}
		for _, c := range certs {
			if err == nil && kind == truststore.TypeTSA {
				err = c.CheckSignatureFrom(c) // of time stamps only roots are trusted
			}
		}
		if err != nil {
			return nil, fmt.Errorf("trust store %s:%s: %s: %w", kind, name, f.Name(), err)
		}
		all = append(all, certs...)
	}
	return all, nil
}

// certificates reads PEM or DER.
func certificates(b []byte) (all []*x509.Certificate, err error) {
	block, rest := pem.Decode(b)
	if block == nil {
		return x509.ParseCertificates(b)
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("it has something else than certificates")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}
