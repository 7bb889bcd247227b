package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/layout"
)

// image is an image whose config is known. Its layers need not be here yet.
type image struct {
	ref    string // for people
	config ocispec.Image
	digest layout.Digest // of the config
	layers []imageLayer
}

type imageLayer struct {
	diffID layout.Digest
	size   int64 // bytes to fetch or read
	open   func(ctx context.Context) (io.ReadCloser, error)
}

// release returns the release that the image becomes.
func (i *image) release(layers []layout.Layer) layout.Release {
	return layout.Release{
		Version: i.version(), Image: i.ref, Config: i.digest, Arch: i.config.Architecture,
		Labels: layout.ReleaseLabels(i.config.Config.Labels), Layers: layers,
	}
}

// version is the image's version for people.
func (i *image) version() string {
	return layout.ImageVersion(i.config.Config.Labels)
}

// readImage reads an image's manifest and config. fetch brings a blob to where provider
// finds it.
func readImage(ctx context.Context, ref string, top ocispec.Descriptor, arch string, provider content.Provider, fetch func(context.Context, ocispec.Descriptor) error) (*image, error) {
	manifest, err := findManifest(ctx, top, arch, provider, fetch)
	if err != nil {
		return nil, err
	}
	if err := fetch(ctx, manifest.Config); err != nil {
		return nil, err
	}
	b, err := content.ReadBlob(ctx, provider, manifest.Config)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	i := &image{ref: ref}
	if err := i.readConfig(b, arch); err != nil {
		return nil, err
	}
	ids := i.config.RootFS.DiffIDs
	if len(ids) != len(manifest.Layers) {
		return nil, fmt.Errorf("the image's config names %d layers, its manifest %d: it is damaged", len(ids), len(manifest.Layers))
	}
	for n, desc := range manifest.Layers {
		i.layers[n].size = desc.Size
		i.layers[n].open = func(ctx context.Context) (io.ReadCloser, error) {
			if err := fetch(ctx, desc); err != nil {
				return nil, err
			}
			return openLayer(ctx, provider, desc)
		}
	}
	return i, nil
}

// readConfig takes over an image's config.
func (i *image) readConfig(b []byte, arch string) error {
	if err := json.Unmarshal(b, &i.config); err != nil {
		return fmt.Errorf("image config: %w", err)
	}
	i.digest = layout.Digest(digest.SHA256.FromBytes(b))
	if i.config.OS != "" && i.config.OS != "linux" {
		return refuse("the image is for %s: build it for linux/%s", i.config.OS, arch)
	}
	if i.config.Architecture != arch {
		return refuse("the image is for %s, this machine is %s: build or push it for linux/%s too", i.config.Architecture, arch, arch)
	}
	if len(i.config.RootFS.DiffIDs) == 0 {
		return refuse("the image has no layers: it cannot boot")
	}
	for _, id := range i.config.RootFS.DiffIDs {
		d, err := layout.ParseDigest(string(id))
		if err != nil {
			return fmt.Errorf("image config: %w", err)
		}
		i.layers = append(i.layers, imageLayer{diffID: d})
	}
	return nil
}

// findManifest follows an index down to the manifest for this architecture.
func findManifest(ctx context.Context, desc ocispec.Descriptor, arch string, provider content.Provider, fetch func(context.Context, ocispec.Descriptor) error) (m ocispec.Manifest, err error) {
	match := platforms.OnlyStrict(platforms.Platform{OS: "linux", Architecture: arch})
	for range 4 { // an index of an index is legal, an endless chain is not
		if err := fetch(ctx, desc); err != nil {
			return m, err
		}
		b, err := content.ReadBlob(ctx, provider, desc)
		if err != nil {
			return m, fmt.Errorf("manifest %s: %w", desc.Digest, err)
		}
		if !images.IsIndexType(desc.MediaType) {
			if !images.IsManifestType(desc.MediaType) {
				return m, fmt.Errorf("%s is no container image (media type %s)", desc.Digest, desc.MediaType)
			}
			if err := json.Unmarshal(b, &m); err != nil {
				return m, fmt.Errorf("manifest %s: %w", desc.Digest, err)
			}
			return m, nil
		}
		var index ocispec.Index
		if err := json.Unmarshal(b, &index); err != nil {
			return m, fmt.Errorf("index %s: %w", desc.Digest, err)
		}
		next, others := -1, []string{}
		for n, d := range index.Manifests {
			if !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType) || d.Annotations["vnd.docker.reference.type"] != "" {
				continue // such as an attestation
			}
			if d.Platform == nil || match.Match(*d.Platform) {
				next = n
				break
			}
			others = append(others, platforms.Format(*d.Platform))
		}
		if next < 0 {
			return m, refuse("the image is for %v, this machine is linux/%s: build or push it for that platform too", others, arch)
		}
		desc = index.Manifests[next]
	}
	return m, fmt.Errorf("manifest %s: too many indexes above it", desc.Digest)
}

// openLayer returns a layer's uncompressed tar.
func openLayer(ctx context.Context, provider content.Provider, desc ocispec.Descriptor) (io.ReadCloser, error) {
	ra, err := provider.ReaderAt(ctx, desc)
	if err != nil {
		if errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("its content %s is not here", desc.Digest)
		}
		return nil, err
	}
	tar, err := compression.DecompressStream(content.NewReader(ra))
	if err != nil {
		ra.Close()
		return nil, err
	}
	return &layerReader{tar, ra}, nil
}

type layerReader struct {
	io.ReadCloser
	under io.Closer
}

func (l *layerReader) Close() error {
	err := l.ReadCloser.Close()
	if e := l.under.Close(); err == nil {
		err = e
	}
	return err
}
