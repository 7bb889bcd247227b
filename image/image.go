// Package image is an OCI image as a value, and the one reader that makes it of what describes it.
//
//	descriptor ─▶ index ─▶ manifest ─┬─▶ config          digest and size of each are checked,
//	             (platform)          └─▶ layers, that open   metadata has 8 MiB at most
//
// Where an image is, package source knows; how a registry is asked, package registry. The formats are
// those of the OCI image specification 1.1.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/layout"
)

// Image is a container image for one platform.
type Image struct {
	Config       ocispec.Image
	ConfigDigest layout.Digest // of the config's bytes, as the image's manifest has it
	// Manifest is the one for its platform: type, digest and size. Zero where the image has none, as in an old
	// docker-archive.
	Manifest ocispec.Descriptor
	// Index is the index or manifest that the reference named: what led to Manifest. Zero where the image has none.
	Index  ocispec.Descriptor
	Ref    string  // what a person calls it, for errors; may be empty
	Layers []Layer // the lowest first
	// Made is the release that was made of the image, where it is on a medium: its layers are blobs then.
	Made *layout.Release
}

// Layer is one layer of an image.
type Layer struct {
	DiffID layout.Digest
	// Size is the size of the uncompressed tar in bytes where it is known, for progress.
	Size int64
	// Stored is the number of bytes that the layer has where the image is, as a rule compressed.
	// 0 where that is not known.
	Stored int64
	// Open returns the uncompressed tar. That its digest is DiffID is for the reader to check;
	// what the image's manifest says of it is checked here.
	Open func(context.Context) (io.ReadCloser, error)
	// Blob is the layer as media have it, where the image is on one: then there is no tar, and Open is nil.
	Blob *Blob
}

// Blob is a layer that is converted: an EROFS image, and its dm-verity tree behind it. Nothing of it has been checked
// against the root hash.
type Blob struct {
	layout.Layer
	io.ReaderAt
}

// UnfitError says that an image is sound, and not one for here: another platform, or more
// layers than can be mounted.
type UnfitError struct {
	What string
	// Platform is whether another platform was the reason.
	Platform bool
}

func (e *UnfitError) Error() string { return e.What }

// Check looks at what the image says of itself.
func (i Image) Check() error {
	if _, err := layout.ParseDigest(string(i.ConfigDigest)); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if os := i.Config.OS; os != "" && os != "linux" {
		return &UnfitError{What: fmt.Sprintf("it is for %s: only linux images can boot", os), Platform: true}
	}
	if _, err := layout.ImageEpoch(i.Config.Config.Labels); err != nil {
		return err
	}
	if len(i.Layers) == 0 {
		return errors.New("it has no layers: it needs at least a kernel and an init")
	}
	if err := checkLayers(len(i.Layers)); err != nil {
		return err
	}
	if _, err := layout.ParseHealth(i.Config.Config.Labels); err != nil {
		return &UnfitError{What: err.Error()}
	}
	ids := i.Config.RootFS.DiffIDs
	if len(ids) != len(i.Layers) {
		return fmt.Errorf("its config names %d layers, and there are %d: it is damaged", len(ids), len(i.Layers))
	}
	for n, l := range i.Layers {
		if _, err := layout.ParseDigest(string(l.DiffID)); err != nil {
			return fmt.Errorf("layer %d: %w", n+1, err)
		}
		if string(ids[n]) != string(l.DiffID) {
			return fmt.Errorf("layer %d is %s, and its config says %s: it is damaged", n+1, l.DiffID, ids[n])
		}
	}
	return nil
}

// checkLayers says whether an image of so many layers can boot.
func checkLayers(n int) error {
	if n > layout.MaxLayers {
		return &UnfitError{What: fmt.Sprintf("it has %d layers, and the kernel takes %d: make fewer, "+
			"such as by a last stage that copies from the others", n, layout.MaxLayers)}
	}
	return nil
}

// Name is what errors call the image.
func (i Image) Name() string {
	if i.Ref != "" {
		return i.Ref
	}
	return string(i.ConfigDigest)
}

// Version is the image's version for people, from its labels.
func (i Image) Version() string { return layout.ImageVersion(i.Config.Config.Labels) }

// Release returns the release that the image becomes with these blobs, as far as that follows from its config.
func (i Image) Release(layers []layout.Layer) layout.Release {
	epoch, _ := layout.ImageEpoch(i.Config.Config.Labels)         // Check has seen it
	manifest, _ := layout.ParseDigest(i.Manifest.Digest.String()) // SHA-256, or none
	return layout.Release{
		Version: i.Version(), Image: i.Ref, Config: i.ConfigDigest, Manifest: manifest, Epoch: epoch,
		Arch: i.Config.Architecture, Labels: layout.ReleaseLabels(i.Config.Config.Labels), Layers: layers,
	}
}

// FromRelease makes an image of a release, with the blobs of its layers. What a release does not keep, it does not
// have: the rest of the image's config, the history, and the layers' tars; and its layers may be more than the image's
// by the one that sets directories right. Its digest is the config's of the image that the release was made from.
func FromRelease(r layout.Release, created time.Time, blobs []Blob, o Options) (*Image, error) {
	img := &Image{ConfigDigest: r.Config, Ref: r.Image, Made: &r}
	img.Config.OS, img.Config.Architecture, img.Config.Created = "linux", r.Arch, &created
	if err := o.fits(platforms.Normalize(img.Config.Platform)); err != nil {
		return nil, err
	}
	labels := maps.Clone(r.Labels)
	if layout.ImageVersion(labels) != r.Version {
		if labels == nil {
			labels = map[string]string{}
		}
		labels[ocispec.AnnotationVersion] = r.Version
	}
	img.Config.Config.Labels = labels
	img.Config.RootFS.Type = "layers"
	total := int64(0)
	for _, b := range blobs {
		img.Layers = append(img.Layers, Layer{DiffID: b.DiffID, Stored: b.Layer.Size, Blob: &b})
		img.Config.RootFS.DiffIDs = append(img.Config.RootFS.DiffIDs, digest.Digest(b.DiffID))
		total += b.Layer.Size
	}
	if o.Limit != nil && o.Limit.Max > 0 && total > o.Limit.Max {
		return nil, fmt.Errorf("%w: their blobs have more than %d MiB", ErrTooLarge, o.Limit.Max>>20)
	}
	return img, img.Check()
}
