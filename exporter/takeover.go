package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/verity"
)

// takeOver takes the layers of an image that is on a medium as they are there: nothing is converted, and nothing of
// them goes into the cache, whose blobs are those that this converter makes. Each is compared with its root hash as a
// whole before anything is written.
func (p *prepared) takeOver(ctx context.Context) error {
	if len(p.Layers) != len(p.Made.Layers) {
		return fmt.Errorf("it has %d layers, and its release %d", len(p.Layers), len(p.Made.Layers))
	}
	for i, l := range p.Layers {
		if l.Blob == nil || l.Blob.Layer != p.Made.Layers[i] {
			return fmt.Errorf("layer %d is not the one of its release", i+1)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		blob := l.Blob
		done := p.options.step(fmt.Sprintf("verifying layer %d of %d %s", i+1, len(p.Layers), l.DiffID))
		err := done(verity.Verify(withContext{ctx, blob}, blob.Layer.Size, blob.RootHash))
		if damaged := (*verity.CorruptError)(nil); errors.As(err, &damaged) {
			return fmt.Errorf("layer %d, %s: the medium is damaged: %w", i+1, l.DiffID, err)
		}
		if err != nil {
			return fmt.Errorf("layer %d, %s: %w", i+1, l.DiffID, err)
		}
		p.blobs = append(p.blobs, &store.Blob{Layer: blob.Layer, ReaderAt: blob, Closer: io.NopCloser(nil)})
	}
	return p.openTree()
}

// withContext ends reading when the context does.
type withContext struct {
	ctx context.Context
	r   io.ReaderAt
}

func (w withContext) ReadAt(b []byte, off int64) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.r.ReadAt(b, off)
}
