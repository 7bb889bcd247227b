package builder

import (
	"context"
	"errors"
	"fmt"
	"io"

	media "github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
)

// PublishRelease makes the release of an image that is in a registry, and pushes it beside the image. Layers that
// another release of the repository has in the same format are neither converted nor uploaded where believe is set.
// Who signs the release does not set it: the root hashes of others would be signed unseen.
func PublishRelease(
	ctx context.Context,
	to *registry.Repository,
	img image.Image,
	o media.Options,
	believe bool,
) (r layout.Release, p release.Pushed, err error) {
	if img.Manifest.Digest == "" {
		return r, p, errors.New("the image has no manifest in a registry: push it first")
	}
	var known *release.Known
	if believe {
		known, err = release.Previous(ctx, to)
		if err != nil && o.Warn != nil {
			o.Warn(fmt.Sprintf(
				"All layers are converted, since the repository's other releases are not known: %v.", err,
			))
		}
		o.Known = func(id layout.Digest, f layout.Format) *image.Blob { return known.Blob(ctx, to, id, f) }
	}
	o.CacheSize = layersSize
	made, err := media.MakeRelease(ctx, img, o)
	if err != nil {
		return r, p, err
	}
	defer func() { err = errors.Join(err, made.Close()) }()
	var blobs []io.ReaderAt
	for _, b := range made.Blobs {
		blobs = append(blobs, b)
	}
	p, err = release.Push(ctx, to, img.Manifest, made.Release, blobs, release.PushOptions{
		Known: known, Progress: o.Progress,
	})
	return made.Release, p, err
}
