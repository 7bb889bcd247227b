package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/exporter/util/epoch"
	"github.com/moby/buildkit/solver"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
)

// commit makes the image of a build's result as the exporters of BuildKit do: the same
// config, and so the same release, as a push of the same result has. The response names it.
//
// The medium's options get the epoch of the build where the output names none.
func (w *worker) commit(
	ctx context.Context,
	src *exporter.Source,
	info exporter.ExportBuildInfo,
	m *Medium,
) (image.Image, map[string]string, error) {
	opts := &m.image
	if opts.Epoch == nil {
		ps, err := exptypes.ParsePlatforms(src.Metadata)
		if err != nil {
			return image.Image{}, nil, err
		}
		tm, err := epoch.ParseSource(src, &ps.Platforms[0])
		if err != nil {
			return image.Image{}, nil, err
		}
		if tm != nil {
			opts.Epoch = &epoch.Epoch{Value: tm}
		}
	}
	m.setEpoch()
	// Equal input, equal bytes: with a SOURCE_DATE_EPOCH no file is younger than it.
	opts.RewriteTimestamp = opts.Epoch != nil && opts.Epoch.Value != nil
	opts.SetOCITypesDefault(true)
	desc, remotes, err := w.images.Commit(ctx, src, info.SessionID, nil, opts, info.CompatibilityVersion, m.Format)
	if err != nil {
		return image.Image{}, nil, err
	}
	manifest, err := images.Manifest(ctx, w.ContentStore(), *desc, platforms.All)
	if err != nil {
		return image.Image{}, nil, fmt.Errorf("read the image's manifest: %w", err)
	}
	config, err := content.ReadBlob(ctx, w.ContentStore(), manifest.Config)
	if err != nil {
		return image.Image{}, nil, fmt.Errorf("read the image's config: %w", err)
	}
	img := image.Image{Ref: firstName(opts.ImageName), ConfigDigest: layout.Digest(manifest.Config.Digest)}
	if err := json.Unmarshal(config, &img.Config); err != nil {
		return image.Image{}, nil, fmt.Errorf("read the image's config: %w", err)
	}
	remote, _ := remotes.FindRef("") // there is one, whatever its key
	if img.Layers, err = layersOf(remote); err != nil {
		return image.Image{}, nil, err
	}
	return img, map[string]string{
		exptypes.ExporterImageDigestKey:       desc.Digest.String(),
		exptypes.ExporterImageConfigDigestKey: manifest.Config.Digest.String(),
	}, nil
}

func firstName(names string) string {
	name, _, _ := strings.Cut(names, ",")
	return name
}

// single returns the result as one image, or says that it is not one.
func single(src *exporter.Source) (*exporter.Source, error) {
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, err
	}
	if len(ps.Platforms) != 1 {
		var ids []string
		for _, p := range ps.Platforms {
			ids = append(ids, p.ID)
		}
		return nil, fmt.Errorf(
			"one file holds one platform, and this build has %s: choose one with --platform, "+
				"or use type=local,format=FORMAT,dest=FOLDER",
			strings.Join(ids, ", "),
		)
	}
	return platform(src, ps.Platforms[0])
}

// platform returns one platform's image, without attestations: media have no place for them.
func platform(src *exporter.Source, p exptypes.Platform) (*exporter.Source, error) {
	ref, ok := src.FindRef(p.ID)
	if !ok || ref == nil {
		return nil, errors.New("the image is empty: it needs at least a kernel and an init")
	}
	one := src.Clone()
	one.Ref, one.Refs, one.Attestations = ref, nil, nil
	platforms, err := json.Marshal(exptypes.Platforms{Platforms: []exptypes.Platform{p}})
	if err != nil {
		return nil, err
	}
	one.Metadata[exptypes.ExporterPlatformsKey] = platforms
	return one, nil
}

// layersOf returns the image's layers, each to be read as its uncompressed tar.
func layersOf(remote *solver.Remote) ([]image.Layer, error) {
	var layers []image.Layer
	for _, desc := range remote.Descriptors {
		diffID, err := layout.ParseDigest(desc.Annotations[labels.LabelUncompressed])
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", desc.Digest, err)
		}
		layers = append(layers, image.Layer{DiffID: diffID, Open: func(ctx context.Context) (io.ReadCloser, error) {
			return openLayer(ctx, remote.Provider, desc)
		}})
	}
	return layers, nil
}

func openLayer(ctx context.Context, from content.Provider, desc ocispec.Descriptor) (io.ReadCloser, error) {
	at, err := from.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	tar, err := compression.DecompressStream(io.NewSectionReader(at, 0, at.Size()))
	if err != nil {
		return nil, errors.Join(err, at.Close())
	}
	return layerReader{tar, at}, nil
}

type layerReader struct {
	compression.DecompressReadCloser
	blob io.Closer
}

func (r layerReader) Close() error {
	return errors.Join(r.DecompressReadCloser.Close(), r.blob.Close())
}
