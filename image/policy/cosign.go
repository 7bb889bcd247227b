package policy

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
)

// What cosign's first format consists of.
const (
	claimType           = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	claimKind           = "cosign container image signature"
)

// What is looked at beside an image: whoever may push there may push more.
const (
	maxSignatures = 64
	maxClaim      = 64 << 10 // bytes
)

// claim is a signature in cosign's first format, and what it signs.
type claim struct {
	payload     []byte
	signature   []byte
	annotations map[string]string
}

// claims returns the signatures beside an image, in cosign's first format.
func claims(ctx context.Context, s Subject) (all []signed, err error) {
	for _, digest := range s.digests() {
		desc, err := s.from.Resolve(ctx, digest.CosignTag())
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("signatures of %s: %w", digest, err)
		}
		b, err := image.ReadBlob(ctx, s.from, desc)
		if err != nil {
			return nil, fmt.Errorf("signatures of %s: %w", digest, err)
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(b, &m); err != nil {
			return nil, refuse("the signatures of %s: %v", digest, err)
		}
		for _, l := range m.Layers {
			if l.MediaType != claimType || len(all) == maxSignatures {
				continue
			}
			c, err := readClaim(ctx, s.from, l)
			if err != nil {
				return nil, fmt.Errorf("signature %s: %w", l.Digest, err)
			}
			all = append(all, c)
		}
	}
	return all, nil
}

func readClaim(ctx context.Context, from image.Blobs, l ocispec.Descriptor) (signed, error) {
	if l.Size > maxClaim {
		return broken{fmt.Errorf("it has %d bytes, more than %d", l.Size, maxClaim)}, nil
	}
	payload, err := image.ReadBlob(ctx, from, l)
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(l.Annotations[signatureAnnotation])
	if err != nil {
		return broken{fmt.Errorf("annotation %s: %w", signatureAnnotation, err)}, nil
	}
	return claim{payload, b, l.Annotations}, nil
}

// publicKey is a key that a policy names.
type publicKey struct {
	name string        // where it is, and its ID
	id   layout.Digest // of its SubjectPublicKeyInfo
	key  crypto.PublicKey
}

// publicKeys reads PEM.
func (m material) publicKeys(root fs.FS, what string) (all []publicKey, err error) {
	files, err := m.read(root, what)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		key, err := cryptoutils.UnmarshalPEMToPublicKey(f.content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		id := layout.SHA256(sha256.Sum256(der))
		all = append(all, publicKey{fmt.Sprintf("%s (%s)", f.name, id), id, key})
	}
	return all, nil
}

// fits says whether a claim is one for this image.
func (c claim) fits(s Subject, wants identity) error {
	var p struct {
		Critical struct {
			Identity struct {
				Name string `json:"docker-reference"`
			} `json:"identity"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
			Type string `json:"type"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(c.payload, &p); err != nil {
		return fmt.Errorf("what is signed: %w", err)
	}
	if p.Critical.Type != claimKind {
		return fmt.Errorf("what is signed has the type %q, not %q", p.Critical.Type, claimKind)
	}
	if err := s.has(p.Critical.Image.Digest); err != nil {
		return err
	}
	if p.Critical.Identity.Name == "" {
		return errors.New("it is for an image without a name")
	}
	return wants.accepts(s.name, p.Critical.Identity.Name)
}

// has says whether a digest is the image's, or that of an index that has led to it.
func (s Subject) has(digest string) error {
	for _, d := range s.digests() {
		if string(d) == digest {
			return nil
		}
	}
	return fmt.Errorf("it is for the digest %q, and this image's is %s", digest, s.descs[0].Digest)
}
