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

	"github.com/kairos-buildkit/kairos/layout"
)

// addBootLayer turns an image without a boot layer into one that has it: one layer more, and
// so another config and another release.
func (p *prepared) addBootLayer(ctx context.Context) error {
	if p.options.BootLayer == nil {
		return errors.New("it has no boot layer: build it with `# syntax=kairos` as the first line of its Dockerfile")
	}
	done := p.options.step("adding the boot layer")
	var tar bytes.Buffer
	if err := done(p.options.BootLayer(&tar, p.root, p.Config)); err != nil {
		return err
	}
	sum := sha256.Sum256(tar.Bytes())
	id := layout.Digest("sha256:" + hex.EncodeToString(sum[:]))
	config := p.Config
	config.RootFS.DiffIDs = append(slices.Clone(config.RootFS.DiffIDs), digest.Digest(id))
	created := time.Time{}
	if config.Created != nil {
		created = *config.Created
	}
	config.History = append(slices.Clone(config.History), ocispec.History{Created: &created, CreatedBy: "kairos boot-layer"})
	b, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	sum = sha256.Sum256(b)
	p.Config, p.ConfigDigest = config, layout.Digest("sha256:"+hex.EncodeToString(sum[:]))
	p.Layers = append(slices.Clone(p.Layers), Layer{DiffID: id, Size: int64(tar.Len()), Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(tar.Bytes())), nil
	}})
	if err := p.addBlob(ctx, len(p.Layers)-1); err != nil {
		return err
	}
	return p.openTree()
}
