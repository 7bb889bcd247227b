package policy

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

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

// SignatureTag is the tag of cosign's signatures of an image.
func SignatureTag(of layout.Digest) string { return strings.Replace(string(of), ":", "-", 1) + ".sig" }

// claim is one signature, and what it signs. Nothing of it has been checked but its digest.
type claim struct {
	payload   []byte
	signature []byte
}

// claims returns the signatures beside an image, in cosign's first format.
func claims(ctx context.Context, s Subject) (all []claim, err error) {
	for _, digest := range s.digests {
		desc, err := s.from.Resolve(ctx, SignatureTag(digest))
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

func readClaim(ctx context.Context, from Repository, l ocispec.Descriptor) (c claim, err error) {
	if l.Size > maxClaim {
		return c, refuse("it has %d bytes, more than %d", l.Size, maxClaim)
	}
	if c.payload, err = image.ReadBlob(ctx, from, l); err != nil {
		return c, err
	}
	c.signature, err = base64.StdEncoding.DecodeString(l.Annotations[signatureAnnotation])
	if err != nil {
		return c, refuse("annotation %s: %v", signatureAnnotation, err)
	}
	return c, nil
}

// publicKey is a key that a policy names.
type publicKey struct {
	name string // where it is, and the digest of its SubjectPublicKeyInfo
	key  crypto.PublicKey
}

func (r requirement) publicKeys(root fs.FS) (all []publicKey, err error) {
	files, err := r.keys.read(root, "key")
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
		all = append(all, publicKey{fmt.Sprintf("%s (%s)", f.name, layout.SHA256(sha256.Sum256(der))), key})
	}
	return all, nil
}

// verify says which of the keys has made the signature.
func (c claim) verify(keys []publicKey) (signer string, err error) {
	var names []string
	for _, k := range keys {
		v, err := signature.LoadVerifier(k.key, crypto.SHA256)
		if err != nil {
			return "", fmt.Errorf("%s: %w", k.name, err)
		}
		if v.VerifySignature(bytes.NewReader(c.signature), bytes.NewReader(c.payload)) == nil {
			return k.name, nil
		}
		names = append(names, k.name)
	}
	return "", fmt.Errorf("it is none of %s", strings.Join(names, ", "))
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
	for _, d := range s.digests {
		if string(d) == digest {
			return nil
		}
	}
	return fmt.Errorf("it is for the digest %q, and this image's is %s", digest, s.digests[0])
}
