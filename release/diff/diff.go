// Package diff compares two images: what a node that has the one fetches for the other, and what differs in them.
//
//	blobs of both (a release beside the image, a medium)   blocks, by the dm-verity trees: package blocks
//	else                                                   whole layers
//	files, packages, boot files                            the trees of all layers, stacked as overlayfs does it
//
// A layer that both have is read once. A blob is read by parts, its directories and what has to be compared; a tar as
// a whole. Contents are compared by SHA-256; names and attributes of 2,097,152 files at most are kept in memory, and
// 256 MiB of package databases.
package diff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release/blocks"
	"github.com/kairos-buildkit/kairos/verity"
)

// Side is one of the two images.
type Side struct {
	Source string // as a person named it
	Image  image.Image
	// Blobs are the layers as nodes have them, where that is known: of a release beside the image, or of a medium.
	Blobs []image.Blob
	// NoBlobs says why they are not known.
	NoBlobs string
}

// Options of [Compare]. The zero value works.
type Options struct {
	// NoFiles has no layer read for what is in it.
	NoFiles bool
	// Progress is called when a step begins, and what it returns when it ends.
	Progress func(step string) func(error) error
}

// Compare says how b differs from a. What is read is verified: layers by their digests, blobs by their root hashes.
func Compare(ctx context.Context, a, b Side, o Options) (d api.Diff, err error) {
	d = api.Diff{Schema: api.Schema, A: side(a), B: side(b), Layers: []api.DiffLayer{}}
	d.Labels = api.Differences(a.Image.Config.Config.Labels, b.Image.Config.Config.Labels)
	if err := cost(ctx, &d, a, b); err != nil {
		return d, err
	}
	switch {
	case o.NoFiles:
		d.FilesUnknown = "the layers were not read"
		d.PackagesUnknown = d.FilesUnknown
		return d, nil
	case slices.Equal(ids(a), ids(b)):
		return d, nil
	}
	return d, content(ctx, &d, a, b, o)
}

func side(s Side) api.DiffSide {
	d := api.DiffSide{
		Source: s.Source, Release: layout.ReleaseID(s.Image.ConfigDigest), Version: s.Image.Version(),
		ConfigDigest: string(s.Image.ConfigDigest), Arch: s.Image.Config.Architecture,
	}
	switch {
	case s.Image.Made != nil:
		d.Blobs = "medium"
	case s.Blobs != nil:
		d.Blobs = "release"
	}
	return d
}

// ids are the layers of an image as a node has them, where that is known.
func ids(s Side) (all []layout.Digest) {
	if s.Blobs != nil {
		for _, b := range s.Blobs {
			all = append(all, b.DiffID)
		}
		return all
	}
	for _, l := range s.Image.Layers {
		all = append(all, l.DiffID)
	}
	return all
}

// cost says what a node that has a fetches for b.
func cost(ctx context.Context, d *api.Diff, a, b Side) error {
	have := map[layout.Digest]bool{}
	for _, id := range ids(a) {
		have[id] = true
	}
	if d.WholeLayers = wholeLayers(a, b); d.WholeLayers != "" {
		for _, l := range b.Image.Layers {
			n := api.DiffLayer{DiffID: string(l.DiffID), By: api.ByNothing, Size: l.Stored}
			if !have[l.DiffID] {
				n.By, n.Fetch = api.ByLayer, l.Stored
			}
			d.Layers = append(d.Layers, n)
			d.Fetch += n.Fetch
		}
		return nil
	}
	var locals []blocks.Local
	for _, l := range a.Blobs {
		locals = append(locals, blocks.Local{Layer: l.Layer, ReaderAt: l})
	}
	for i, l := range b.Blobs {
		n := api.DiffLayer{DiffID: string(l.DiffID), By: api.ByNothing, Size: verity.TotalSize(l.Layer.Size)}
		if !have[l.DiffID] {
			part := func(_ context.Context, off, n int64) (io.ReadCloser, error) {
				return io.NopCloser(io.NewSectionReader(l, off, n)), nil
			}
			plan, err := blocks.Look(ctx, l.Layer, part, locals)
			if err != nil {
				return fmt.Errorf("%s: layer %d, %s: %w", b.Source, i+1, l.DiffID, err)
			}
			s := plan.Cost()
			n.By, n.Fetch, n.Reuse = api.ByBlocks, s.Fetched, s.Reused
			d.Ranges += s.Ranges
			d.Requests += s.Requests
			locals = append(locals, plan.Local())
		}
		have[l.DiffID] = true
		d.Layers = append(d.Layers, n)
		d.Fetch += n.Fetch
		d.Reuse += n.Reuse
	}
	return nil
}

// wholeLayers says why nothing can be fetched by blocks.
func wholeLayers(a, b Side) string {
	switch {
	case b.Blobs == nil:
		return fmt.Sprintf("of %s the blobs are not known: %s", b.Source, b.NoBlobs)
	case a.Blobs == nil:
		return fmt.Sprintf("of %s the blobs are not known: %s", a.Source, a.NoBlobs)
	}
	roots := map[layout.Digest]layout.Layer{}
	for _, l := range a.Blobs {
		roots[l.DiffID] = l.Layer
	}
	for _, l := range b.Blobs {
		if has, ok := roots[l.DiffID]; ok && has != l.Layer {
			return fmt.Sprintf("layer %s is in another format in each, so that a node converts %s's",
				l.DiffID.Short(), b.Source)
		}
	}
	return ""
}

// content says what differs in the images' trees.
func content(ctx context.Context, d *api.Diff, a, b Side, o Options) error {
	r := &reader{layers: map[layout.Digest]*layer{}}
	// A blob can be read by parts: where one of the two has it, it is read for both.
	r.blobs = slices.Concat(a.Blobs, b.Blobs)
	before, err := r.stack(ctx, a, o)
	if err != nil {
		return fmt.Errorf("%s: %w", a.Source, err)
	}
	after, err := r.stack(ctx, b, o)
	if err != nil {
		return fmt.Errorf("%s: %w", b.Source, err)
	}
	if d.Files, err = compare(ctx, before, after); err != nil {
		return err
	}
	x, errX := bootOf(before)
	y, errY := bootOf(after)
	if err := errors.Join(errX, errY); err != nil {
		return err
	}
	d.Boot = api.Differences(x, y)
	p, unknownP := packagesOf(before)
	q, unknownQ := packagesOf(after)
	if d.PackagesUnknown = unknownP; unknownP == "" {
		d.PackagesUnknown = unknownQ
	}
	if d.PackagesUnknown == "" {
		d.Packages = api.Differences(p, q)
	}
	return nil
}
