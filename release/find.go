package release

import (
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
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
	descs, err := from.Referrers(ctx, manifest, layout.ReleaseType)
	if err != nil {
		return Artifact{}, err
	}
	var best Artifact
	var bad error
	found := false
	for i, d := range descs {
		if i == maxReferrers {
			break
		}
		a, err := Read(ctx, from, d)
		switch {
		case errors.Is(err, errOther):
		case err != nil:
			bad = errors.Join(bad, err)
		case string(manifest) != a.Subject.Digest.String():
			bad = errors.Join(bad, fmt.Errorf("release artifact %s is beside %s", d.Digest, a.Subject.Digest))
		case !found || a.Release.Format.Version > best.Release.Format.Version:
			best, found = a, true
		}
	}
	switch {
	case found:
		return best, nil
	case bad != nil:
		return best, bad
	}
	return best, ErrNone
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
	return Parse(manifest, record)
}
