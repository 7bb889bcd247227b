package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/layout"
)

// imageAt returns the image that a descriptor leads to, through indexes.
func imageAt(ctx context.Context, from blobs, desc ocispec.Descriptor, platform string) (*Image, error) {
	for range 4 { // an index in an index happens, more than that does not
		if !images.IsIndexType(desc.MediaType) {
			return imageOf(ctx, from, desc, platform)
		}
		var index ocispec.Index
		if err := readJSON(ctx, from, desc, &index); err != nil {
			return nil, err
		}
		var err error
		if desc, err = pick(index.Manifests, platform); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("indexes in indexes, without an end")
}

// pick chooses the manifest for a platform.
func pick(manifests []ocispec.Descriptor, platform string) (ocispec.Descriptor, error) {
	want := platforms.Only(platforms.MustParse(platform))
	var all []ocispec.Descriptor
	var names []string
	for _, m := range manifests {
		// Attestations say that they are for no platform.
		if m.Platform != nil && m.Platform.OS == "unknown" || !images.IsManifestType(m.MediaType) && !images.IsIndexType(m.MediaType) {
			continue
		}
		all = append(all, m)
		if m.Platform != nil {
			names = append(names, platforms.Format(*m.Platform))
		}
	}
	matching := slices.DeleteFunc(slices.Clone(all), func(m ocispec.Descriptor) bool { return m.Platform != nil && !want.Match(*m.Platform) })
	slices.SortStableFunc(matching, func(a, b ocispec.Descriptor) int {
		switch {
		case a.Platform == nil || b.Platform == nil:
			return 0
		case want.Less(*a.Platform, *b.Platform):
			return -1
		default:
			return 1
		}
	})
	switch {
	case len(matching) > 0:
		return matching[0], nil
	case len(all) == 0:
		return ocispec.Descriptor{}, errors.New("it has no image")
	default:
		return ocispec.Descriptor{}, fmt.Errorf("it is for %s, not for %s: choose with --platform", strings.Join(names, ", "), platform)
	}
}

func imageOf(ctx context.Context, from blobs, desc ocispec.Descriptor, platform string) (*Image, error) {
	var m ocispec.Manifest
	if err := readJSON(ctx, from, desc, &m); err != nil {
		return nil, err
	}
	if !images.IsConfigType(m.Config.MediaType) {
		return nil, fmt.Errorf("it is not a container image: its config has the type %s", m.Config.MediaType)
	}
	config, err := readBlob(ctx, from, m.Config)
	if err != nil {
		return nil, err
	}
	var layers []opener
	for _, l := range m.Layers {
		layers = append(layers, func(ctx context.Context) (io.ReadCloser, error) { return from.open(ctx, l) })
	}
	return assemble(config, layers, platform)
}

// opener opens a layer, compressed or not.
type opener func(context.Context) (io.ReadCloser, error)

// assemble makes an image from its config and its layers.
func assemble(config []byte, layers []opener, platform string) (*Image, error) {
	img := &Image{Image: exporter.Image{ConfigDigest: layout.Digest(digest.FromBytes(config))}}
	if err := json.Unmarshal(config, &img.Config); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if p := img.Config.Platform; !platforms.Only(platforms.MustParse(platform)).Match(p) {
		return nil, fmt.Errorf("it is for %s, not for %s: choose with --platform", platforms.Format(p), platform)
	}
	if ids := img.Config.RootFS.DiffIDs; len(ids) != len(layers) {
		return nil, fmt.Errorf("its config names %d layers, its manifest %d", len(ids), len(layers))
	}
	for i, open := range layers {
		id, err := layout.ParseDigest(img.Config.RootFS.DiffIDs[i].String())
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		img.Layers = append(img.Layers, exporter.Layer{DiffID: id, Open: func(ctx context.Context) (io.ReadCloser, error) {
			return decompress(ctx, open)
		}})
	}
	return img, nil
}

func decompress(ctx context.Context, open opener) (io.ReadCloser, error) {
	blob, err := open(ctx)
	if err != nil {
		return nil, err
	}
	tar, err := compression.DecompressStream(blob)
	if err != nil {
		return nil, errors.Join(err, blob.Close())
	}
	return layerReader{tar, blob}, nil
}

type layerReader struct {
	compression.DecompressReadCloser
	blob io.Closer
}

func (r layerReader) Close() error {
	return errors.Join(r.DecompressReadCloser.Close(), r.blob.Close())
}

// readBlob reads a small blob and checks that it is the one that was asked for.
func readBlob(ctx context.Context, from blobs, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > maxJSON {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, errTooLarge)
	}
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("blob %q: %w", desc.Digest, err)
	}
	r, err := from.open(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := readAll(r)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	if got := desc.Digest.Algorithm().FromBytes(b); got != desc.Digest {
		return nil, fmt.Errorf("blob %s: its content is another one, %s: it is damaged", desc.Digest, got)
	}
	return b, nil
}

func readJSON(ctx context.Context, from blobs, desc ocispec.Descriptor, to any) error {
	b, err := readBlob(ctx, from, desc)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, to); err != nil {
		return fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	return nil
}
