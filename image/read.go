package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/layout"
)

// Options say which of an index's images is meant.
type Options struct {
	// Platform that the image must be for. Its variant is the highest that the CPU has, such as v2 of
	// amd64: an image for a higher one is refused. Without a variant any will do, the lowest first.
	Platform ocispec.Platform
	// Fallback is whether an image for another platform is taken where there is only one.
	Fallback bool
	// Limit bounds the layers; nil for no limit.
	Limit *Limit
}

// maxDepth bounds how deep indexes lie in indexes: one in another happens, more than that does not.
// maxManifests bounds the indexes and manifests that are looked at, in all: indexes that list one another many times
// over are some kilobytes that would be read for days.
const (
	maxDepth     = 4
	maxManifests = 256
)

// errNoImage says that a manifest is that of something else: an attestation, a signature, a chart.
var errNoImage = errors.New("it is not a container image")

// Read returns the image that one of the descriptors leads to, through indexes: the one for the
// platform. The error is an [UnfitError] where all are for others.
func Read(ctx context.Context, from Blobs, o Options, descs ...ocispec.Descriptor) (*Image, error) {
	c := &chooser{blobs: from, options: o}
	for _, d := range descs {
		c.root = d
		if err := c.look(ctx, []ocispec.Descriptor{d}, 0); err != nil {
			return nil, err
		}
	}
	img, err := c.choose(ctx)
	if err != nil {
		return nil, err
	}
	return img, nil
}

// chooser collects the images that descriptors lead to.
type chooser struct {
	blobs   Blobs
	options Options
	root    ocispec.Descriptor // of those that were given, the one that is looked at
	found   []candidate
	looked  int   // indexes and manifests so far
	other   error // why a descriptor is no image
}

// candidate is a manifest, and the platform that it is for.
type candidate struct {
	root     ocispec.Descriptor // which of the descriptors led to it
	desc     ocispec.Descriptor
	platform ocispec.Platform
}

// look follows descriptors down to manifests. Of an entry that does not say for which platform
// it is, the config does.
func (c *chooser) look(ctx context.Context, descs []ocispec.Descriptor, depth int) error {
	if depth > maxDepth {
		return errors.New("indexes in indexes, without an end")
	}
	for _, d := range descs {
		switch {
		case artifact(d.ArtifactType) || d.Annotations["vnd.docker.reference.type"] != "" || d.Platform != nil &&
			d.Platform.OS == "unknown":
			continue // an attestation says that it is for no platform
		case !images.IsIndexType(d.MediaType) && !images.IsManifestType(d.MediaType):
			c.other = fmt.Errorf("%w: %s has the type %s", errNoImage, d.Digest, d.MediaType)
			continue
		}
		if c.looked++; c.looked > maxManifests {
			return fmt.Errorf("it has more than %d indexes and manifests", maxManifests)
		}
		switch {
		case images.IsIndexType(d.MediaType):
			var index ocispec.Index
			if err := readJSON(ctx, c.blobs, d, &index); err != nil {
				return err
			}
			if artifact(index.ArtifactType) {
				continue
			}
			if err := c.look(ctx, index.Manifests, depth+1); err != nil {
				return err
			}
		case d.Platform != nil && d.Platform.Architecture != "":
			c.found = append(c.found, candidate{c.root, d, platforms.Normalize(*d.Platform)})
		default:
			_, config, _, err := c.read(ctx, d)
			if errors.Is(err, errNoImage) {
				c.other = err
				continue
			}
			if err != nil {
				return err
			}
			c.found = append(c.found, candidate{c.root, d, platforms.Normalize(config.Platform)})
		}
	}
	return nil
}

// Artifact says whether a descriptor says of itself that it is no image's.
func Artifact(d ocispec.Descriptor) bool { return artifact(d.ArtifactType) }

// artifact says whether a type of artifact is another one than that of images, which some
// programs give with the config's media type.
func artifact(artifactType string) bool {
	return artifactType != "" && !images.IsConfigType(artifactType)
}

// choose opens the candidate that fits best.
func (c *chooser) choose(ctx context.Context) (*Image, error) {
	if len(c.found) == 0 {
		if c.other != nil {
			return nil, c.other
		}
		return nil, errors.New("it has no image")
	}
	var fits []candidate
	for _, f := range c.found {
		if c.options.fits(f.platform) == nil {
			fits = append(fits, f)
		}
	}
	slices.SortStableFunc(fits, func(a, b candidate) int { return c.options.compare(a.platform, b.platform) })
	var unsuitable error
	for _, f := range fits {
		img, err := c.image(ctx, f)
		if !errors.Is(err, errNoImage) {
			return img, err
		}
		unsuitable = err // an artifact that says it is for our platform
	}
	if unsuitable != nil {
		return nil, unsuitable
	}
	if len(c.found) == 1 && c.options.Fallback {
		c.options.Platform = ocispec.Platform{}
		return c.image(ctx, c.found[0])
	}
	var names []string
	for _, f := range c.found {
		if n := platforms.Format(f.platform); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if len(c.found) == 1 {
		return nil, c.options.fits(c.found[0].platform)
	}
	return nil, c.options.unfit(strings.Join(names, ", "))
}

// read reads a manifest and its config.
func (c *chooser) read(
	ctx context.Context,
	d ocispec.Descriptor,
) (m ocispec.Manifest, config ocispec.Image, raw []byte, err error) {
	if err := readJSON(ctx, c.blobs, d, &m); err != nil {
		return m, config, nil, err
	}
	if artifact(m.ArtifactType) || !images.IsConfigType(m.Config.MediaType) {
		return m, config, nil, fmt.Errorf("%w: its config has the type %s", errNoImage, m.Config.MediaType)
	}
	if raw, err = ReadBlob(ctx, c.blobs, m.Config); err != nil {
		return m, config, nil, err
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return m, config, nil, fmt.Errorf("config: %w", err)
	}
	return m, config, raw, nil
}

func (c *chooser) image(ctx context.Context, f candidate) (*Image, error) {
	m, _, raw, err := c.read(ctx, f.desc)
	if err != nil {
		return nil, err
	}
	if err := checkStored(m.Layers); err != nil {
		return nil, err
	}
	var layers []StoredLayer
	for _, l := range m.Layers {
		layers = append(layers, StoredLayer{l.Size, func(ctx context.Context) (io.ReadCloser, error) {
			return OpenBlob(ctx, c.blobs, l)
		}})
	}
	img, err := New(raw, layers, c.options)
	if err != nil {
		return nil, err
	}
	plain := func(d ocispec.Descriptor) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	}
	img.Index, img.Manifest = plain(f.root), plain(f.desc)
	return img, nil
}

// maxStored bounds what a manifest says of a layer's bytes, far above any layer's: sums of it are numbers, too.
const maxStored = 1 << 40

// checkStored says what is wrong with a manifest's layers before one is asked for.
func checkStored(layers []ocispec.Descriptor) error {
	if err := checkLayers(len(layers)); err != nil {
		return err
	}
	for i, l := range layers {
		switch {
		case l.Size < 0 || l.Size > maxStored:
			return fmt.Errorf("layer %d, %s: a size of %d bytes: the manifest is damaged", i+1, l.Digest, l.Size)
		case len(l.URLs) > 0:
			return &UnfitError{What: fmt.Sprintf("layer %d, %s, is not with the image but at %q: push the image with "+
				"it (Docker's allow-nondistributable-artifacts)", i+1, l.Digest, l.URLs[0])}
		}
	}
	return nil
}

// StoredLayer is a layer where the image is: its bytes, and how many there are.
type StoredLayer struct {
	Size int64
	Open Open
}

// New makes an image of its config and its layers, compressed or not.
func New(config []byte, layers []StoredLayer, o Options) (*Image, error) {
	img := &Image{ConfigDigest: layout.Digest(digest.FromBytes(config))}
	if err := json.Unmarshal(config, &img.Config); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if err := o.fits(platforms.Normalize(img.Config.Platform)); err != nil {
		return nil, err
	}
	if err := checkLayers(max(len(layers), len(img.Config.RootFS.DiffIDs))); err != nil {
		return nil, err
	}
	if ids := img.Config.RootFS.DiffIDs; len(ids) != len(layers) {
		return nil, fmt.Errorf("its config names %d layers, its manifest %d: it is damaged", len(ids), len(layers))
	}
	for i, l := range layers {
		id, err := layout.ParseDigest(img.Config.RootFS.DiffIDs[i].String())
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		img.Layers = append(img.Layers, Layer{DiffID: id, Stored: l.Size, Open: Uncompressed(l.Open, o.Limit)})
	}
	return img, nil
}
