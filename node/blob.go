package node

import (
	"context"
	"io"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// copyLayer takes a layer of an image that is on a medium as it is there, checked against its root hash.
func copyLayer(ctx context.Context, s *store.Store, b *image.Blob, progress func(int64)) (layout.Layer, error) {
	return s.CopyBlob(ctx, b.Layer, countedBlob{b, progress})
}

// countedBlob tells how far a blob is read, which is from its beginning to its end.
type countedBlob struct {
	io.ReaderAt
	progress func(int64)
}

func (c countedBlob) ReadAt(b []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(b, off)
	c.progress(off + int64(n))
	return n, err
}
