package release

import (
	"bytes"
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
)

// AddSignatures publishes signatures of a release that is in the registry: as one more artifact beside the image, with
// the same record and blobs. The artifacts that are there stay, so that nobody's signatures are lost when two sign
// at once; [Signatures] unites them.
func AddSignatures(
	ctx context.Context, to Target, a Artifact, s trust.Signatures,
) (ocispec.Descriptor, error) {
	b, err := s.Marshal()
	if err == nil {
		a.Signatures, err = pushBytes(ctx, to, layout.SignaturesType, b)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("sign release %s: %w", a.Release.ID(), err)
	}
	return pushArtifact(ctx, to, a)
}

// pushBytes pushes a small blob that an artifact is to name.
func pushBytes(ctx context.Context, to Target, mediaType string, b []byte) (ocispec.Descriptor, error) {
	d := describe(mediaType, b)
	_, err := to.Push(ctx, d, bytes.NewReader(b))
	return d, err
}

// Signatures returns the signatures of the artifacts beside a release's image that have the very same record. Nothing
// about them is believed: there may be several of one key, in no order, and wrong ones. Artifacts that cannot be
// read are left out.
func Signatures(ctx context.Context, from Repository, r layout.Release) (trust.Signatures, error) {
	record, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	all, _, err := candidates(ctx, from, r.Manifest)
	if err != nil {
		return nil, err
	}
	return united(ctx, from, all, record), nil
}

// united returns the signatures of those artifacts that have the record.
func united(ctx context.Context, from Repository, artifacts []Artifact, record []byte) (all trust.Signatures) {
	for _, a := range artifacts {
		if a.Signatures.Digest == "" {
			continue
		}
		if other, err := a.Release.Marshal(); err != nil || !bytes.Equal(other, record) {
			continue
		}
		b, err := image.ReadBlob(ctx, from, a.Signatures)
		if err != nil {
			continue
		}
		if s, err := trust.ParseSignatures(b); err == nil {
			all = append(all, s...)
		}
	}
	return all
}
