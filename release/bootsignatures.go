package release

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// AddBootSignatures publishes signatures of the boot files of a release's image, as [AddSignatures] does those of the
// release: as one more artifact.
func AddBootSignatures(
	ctx context.Context, to Target, a Artifact, list secureboot.DetachedList,
) (ocispec.Descriptor, error) {
	b, err := list.Marshal()
	if err == nil {
		a.Boot, err = pushBytes(ctx, to, layout.BootSignaturesType, b)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("sign the boot files of release %s: %w", a.Release.ID(), err)
	}
	return pushArtifact(ctx, to, a)
}

// BootSignatures returns the signatures of an image's boot files from all artifacts beside it, as one record: the
// content of [layout.ReleaseBootSignaturesPath], nil where there are none. Nothing about them is believed, whatever
// release they are of: who puts one on a boot file compares it with the file, and with the image's certificate.
// Artifacts that cannot be read are left out.
func BootSignatures(ctx context.Context, from Repository, manifest layout.Digest) ([]byte, error) {
	artifacts, _, err := candidates(ctx, from, manifest)
	if err != nil {
		return nil, err
	}
	var all secureboot.DetachedList
	var b []byte
	for _, a := range artifacts {
		if a.Boot.Digest == "" {
			continue
		}
		one, err := image.ReadBlob(ctx, from, a.Boot)
		if err != nil {
			continue
		}
		list, err := secureboot.ParseDetached(one)
		if err != nil {
			continue
		}
		if more, err := append(all, list...).Marshal(); err == nil { // else there are more than a record has
			all, b = append(all, list...), more
		}
	}
	return b, nil
}
