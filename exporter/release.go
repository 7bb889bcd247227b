package exporter

import (
	"context"
	"fmt"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// Release is the release that an image becomes, with its blobs.
type Release struct {
	layout.Release
	// Blobs are of the release's layers.
	Blobs []*store.Blob
	// SecureBoot is what the image has for Secure Boot; nil where that is nothing. Programs are its boot files that a
	// key signs, by their paths in the image: unsigned ones where that is done apart from the build.
	SecureBoot *boot.SecureBoot
	Programs   map[string][]byte
	p          *prepared
}

// Close closes the blobs.
func (r *Release) Close() error { return r.p.Close() }

// MakeRelease makes the release of an image that is in a registry: the one that is published beside it. The image
// must have its boot layer, since one that gets it here is another image.
func MakeRelease(ctx context.Context, img image.Image, o Options) (*Release, error) {
	o.BootLayers, o.unsigned = nil, true
	p, err := prepare(ctx, img, o)
	if err != nil {
		return nil, fmt.Errorf("release of image %s: %w", img.Name(), err)
	}
	r := p.described() // with the manifest
	return &Release{Release: r, Blobs: p.blobs, SecureBoot: p.secureBoot, Programs: p.programs(), p: p}, nil
}

// known returns a layer's blob that is somewhere else already, as this converter makes it.
func (p *prepared) known(diffID layout.Digest) *store.Blob {
	o := erofs.Options{Compression: p.compression}
	if p.options.Known == nil || p.cache().Has(diffID, o) {
		return nil
	}
	b := p.options.Known(diffID, layout.Format{Compression: string(p.compression), Version: erofs.FormatVersion})
	if b == nil {
		return nil
	}
	return &store.Blob{Layer: b.Layer, ReaderAt: b.ReaderAt, Closer: nothing{}, Hit: true}
}

type nothing struct{}

func (nothing) Close() error { return nil }
