package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
)

// Repository is where an image is, with what refers to it.
type Repository interface {
	image.Blobs
	// Referrers lists the manifests of a type whose subject has this digest; none is no error.
	Referrers(ctx context.Context, subject layout.Digest, artifactType string) ([]ocispec.Descriptor, error)
}

// maxReferrers bounds how many releases of one image are looked at.
const maxReferrers = 16

// ErrNone says that an image has no release beside it.
var ErrNone = errors.New("the image has no release beside it")

// Find returns the release beside an image: of several the one in the newest format. Without one, the error is
// [ErrNone]. All of the artifact's metadata is compared with its digests; that it is the image's, [Artifact.Fits]
// says.
func Find(ctx context.Context, from Repository, manifest layout.Digest) (Artifact, error) {
	all, bad, err := candidates(ctx, from, manifest)
	if err != nil {
		return Artifact{}, err
	}
	if len(all) > 0 {
		return all[0], nil
	}
	if bad != nil {
		return Artifact{}, bad
	}
	return Artifact{}, ErrNone
}

// FindTrusted is [Find] for who trusts some keys: the release is one that the anchor accepts for an architecture, and
// has its signatures, united from all artifacts with the same record. Where none is accepted, the error says why of
// each.
func FindTrusted(
	ctx context.Context, from Repository, manifest layout.Digest, anchor trust.Anchor, arch string,
) (Artifact, error) {
	all, bad, err := candidates(ctx, from, manifest)
	if err != nil {
		return Artifact{}, err
	}
	seen := map[string]bool{}
	for _, a := range all {
		record, err := a.Release.Marshal()
		if err != nil || seen[string(record)] {
			continue
		}
		seen[string(record)] = true
		if s := anchor.Choose(record, united(ctx, from, all, record)); len(s) > 0 {
			if a.Release.Signatures, err = s.Marshal(); err != nil {
				bad = errors.Join(bad, err)
				continue
			}
		}
		if _, err := anchor.Check(a.Release, arch); err != nil {
			bad = errors.Join(bad, err)
			continue
		}
		return a, nil
	}
	if bad != nil {
		return Artifact{}, bad
	}
	return Artifact{}, ErrNone
}

// candidates returns the releases beside an image, those in the newest format first, and what is wrong with others.
func candidates(
	ctx context.Context, from Repository, manifest layout.Digest,
) (all []Artifact, bad, err error) {
	descs, err := from.Referrers(ctx, manifest, layout.ReleaseType)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range descs[:min(len(descs), maxReferrers)] {
		a, err := Read(ctx, from, d)
		switch {
		case errors.Is(err, errOther):
		case err != nil:
			bad = errors.Join(bad, err)
		case string(manifest) != a.Subject.Digest.String():
			bad = errors.Join(bad, fmt.Errorf("release artifact %s is beside %s", d.Digest, a.Subject.Digest))
		default:
			all = append(all, a)
		}
	}
	slices.SortStableFunc(all, func(a, b Artifact) int {
		return cmp.Compare(b.Release.Format.Version, a.Release.Format.Version)
	})
	return all, bad, nil
}

// Read reads the artifact that a descriptor names.
func Read(ctx context.Context, from image.Blobs, desc ocispec.Descriptor) (Artifact, error) {
	desc.MediaType = ocispec.MediaTypeImageManifest
	manifest, err := image.ReadBlob(ctx, from, desc)
	if err != nil {
		return Artifact{}, err
	}
	at, err := RecordOf(manifest)
	if err != nil {
		return Artifact{}, err
	}
	record, err := image.ReadBlob(ctx, from, at)
	if err != nil {
		return Artifact{}, err
	}
	a, err := Parse(manifest, record)
	a.Manifest = plain(desc)
	return a, err
}
