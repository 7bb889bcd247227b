package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
)

// maxManifest bounds what says how the boot files were made, in bytes.
const maxManifest = 1 << 20

// inspectImage looks at an image.
func (o *inspectOptions) inspectImage(ctx context.Context, name string) (_ *api.Inspection, err error) {
	img, err := openImage(ctx, name, o.source)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	labels := img.Config.Config.Labels
	r := api.Release{
		Release: layout.ReleaseID(img.ConfigDigest), Version: img.Version(), Image: img.Ref,
		ConfigDigest: string(img.ConfigDigest),
		Arch:         img.Config.Architecture, Created: img.Config.Created, Labels: layout.ReleaseLabels(labels),
		Layers: []api.Layer{},
	}
	for _, l := range img.Layers {
		r.Layers = append(r.Layers, api.Layer{DiffID: string(l.DiffID), Size: l.Stored})
		r.Size += l.Stored
	}
	found := &api.Inspection{Kind: api.KindImage, Size: r.Size}
	if labels[layout.ImageLabelFormat] == "" {
		found.Problems = append(found.Problems,
			"it was not built with \"# syntax=kairos\": `kairos export` adds what boots it")
	} else if err := readBootLayer(ctx, img.Image, found, &r); err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	found.Releases = []api.Release{r}
	return found, nil
}

// readBootLayer looks for the boot layer, from the top down, since what is above it may be a derived image's.
func readBootLayer(ctx context.Context, img image.Image, found *api.Inspection, r *api.Release) error {
	for i := len(img.Layers) - 1; i >= 0; i-- {
		layer, err := img.Layers[i].Open(ctx)
		if err != nil {
			return err
		}
		m, files, err := bootLayerIn(layer)
		if err == nil && m != nil {
			_, err = io.Copy(io.Discard, layer) // its digest is compared at the end
		}
		if err := errors.Join(err, layer.Close()); err != nil {
			return fmt.Errorf("layer %s: %w", img.Layers[i].DiffID, err)
		}
		if m != nil {
			found.BootFiles, r.Cmdline, r.Kernel = files, m.Cmdline, m.Kernel.Version
			return nil
		}
	}
	found.Problems = append(found.Problems,
		"it has no boot layer, and a label of one that has: `kairos export` adds what boots it")
	return nil
}

// bootLayerIn returns what says how a layer's boot files were made, and the files; nothing, if it has none.
func bootLayerIn(layer io.Reader) (m *boot.Manifest, files []api.BootFile, err error) {
	for t := tar.NewReader(layer); ; {
		h, err := t.Next()
		if err == io.EOF {
			return m, files, nil
		}
		if err != nil {
			return nil, nil, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		switch {
		case h.Typeflag != tar.TypeReg:
		case name == layout.ImageBootManifest:
			b, err := bounded.ReadAll(t, maxManifest)
			if err != nil {
				return nil, nil, err
			}
			parsed, err := boot.ParseManifest(b)
			if err != nil {
				return nil, nil, err
			}
			m = &parsed
		case path.Dir(name) == path.Dir(layout.ImageKernel), strings.HasPrefix(name, layout.ImageBootDir+"/"):
			if len(files) < 1000 {
				files = append(files, api.BootFile{Path: name, Size: h.Size})
			}
		}
	}
}
