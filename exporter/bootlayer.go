package exporter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
)

// addBootLayers turns an image without a boot layer into one that has it: more layers, and so
// another config and another release.
func (p *prepared) addBootLayers(ctx context.Context) error {
	if p.options.BootLayers == nil {
		return errors.New("it has no boot layer: build it with `# syntax=kairos` as the first line of its Dockerfile")
	}
	done := p.options.step("adding the boot layer")
	tars, err := p.options.BootLayers(p.root, p.Config)
	if err := done(err); err != nil {
		return err
	}
	config := p.Config
	config.RootFS.DiffIDs, config.History = slices.Clone(config.RootFS.DiffIDs), slices.Clone(config.History)
	p.Layers = slices.Clone(p.Layers)
	created := time.Time{}
	if config.Created != nil {
		created = *config.Created
	}
	for _, tar := range tars {
		layer := layerOfTar(tar)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.Digest(layer.DiffID))
		config.History = append(config.History, ocispec.History{Created: &created, CreatedBy: "kairos boot-layer"})
		p.Layers = append(p.Layers, layer)
	}
	b, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	p.Config, p.ConfigDigest = config, sha256Of(b)
	for i := len(p.Layers) - len(tars); i < len(p.Layers); i++ {
		if err := p.addBlob(ctx, i); err != nil {
			return err
		}
	}
	return p.openTree()
}

// fixUp adds the layer that sets the others right, where one has to: see [erofs.FixUp]. It is none
// of the image's, and the release has it all the same.
func (p *prepared) fixUp(ctx context.Context) error {
	tar, err := erofs.FixUp(p.trees...)
	if err != nil || tar == nil {
		return err
	}
	p.Layers = append(slices.Clone(p.Layers), layerOfTar(tar))
	if err := p.addBlob(ctx, len(p.Layers)-1); err != nil {
		return err
	}
	return p.openTree()
}

func layerOfTar(tar []byte) image.Layer {
	return image.Layer{
		DiffID: sha256Of(tar),
		Size:   int64(len(tar)),
		Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(tar)), nil
		},
	}
}

func sha256Of(b []byte) layout.Digest {
	sum := sha256.Sum256(b)
	return layout.Digest("sha256:" + hex.EncodeToString(sum[:]))
}
