package store

import (
	"context"
	"io"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/layout"
)

// RepairBlob replaces a damaged blob by another store's, which must have the same root hash: then every
// release that lists the layer is whole again. Until the new one is complete and checked, the old
// one stays, damaged as it is.
func (s *Store) RepairBlob(ctx context.Context, layer layout.Layer, from io.ReaderAt) error {
	_, err := s.add(ctx, layer.DiffID, adding{replace: true}, fromBlob(ctx, layer, from))
	return err
}

// RepairLayer is RepairBlob with a blob that is converted from the layer's tar. Options that make other bytes
// than those that the releases list change nothing, and give an error.
func (s *Store) RepairLayer(ctx context.Context, layer layout.Layer, tar io.Reader, o erofs.Options) error {
	_, err := s.add(ctx, layer.DiffID, adding{replace: true}, fromTar(ctx, layer.DiffID, layer.RootHash, tar, o))
	return err
}
