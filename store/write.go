package store

import (
	"context"
	"io"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// WriteBlob makes a layer's blob of its data, of which write gives each block of 4096 bytes once, in any order. A blob
// whose root hash is not the layer's changes nothing. Where the store has the layer already, maybe in another format,
// that one stays and is returned.
func (s *Store) WriteBlob(
	ctx context.Context, layer layout.Layer, write func(io.WriterAt) error,
) (layout.Layer, error) {
	return s.add(ctx, layer.DiffID, false, func(w *verity.Writer) (int64, string, error) {
		return layer.Size, layer.RootHash, write(w)
	})
}

// Blobs returns the layers that the store has, as far as names and sizes say it.
func (s *Store) Blobs() ([]layout.Layer, error) {
	var all []layout.Layer
	err := s.eachBlob(func(id layout.Digest) error {
		l, ok, err := s.Layer(id)
		if ok && err == nil {
			all = append(all, l)
		}
		return err
	})
	return all, err
}
