package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// Tree is the root file system of a release, read through its blobs without a mount. Each
// block is checked against the root hashes when it is read, as the kernel would do it.
type Tree struct {
	fs.FS
	files []io.Closer
}

// Tree opens the merged tree of layers, the lowest first, as overlayfs would show it.
func (s *Store) Tree(layers []layout.Layer) (_ *Tree, err error) {
	t := &Tree{}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	lowest := make([]fs.FS, len(layers))
	for i, layer := range layers {
		f, err := s.OpenBlob(layer.DiffID)
		if err != nil {
			return nil, err
		}
		t.files = append(t.files, f)
		data, err := verity.NewReader(f, layer.Size, layer.RootHash)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", layer.DiffID, err)
		}
		if lowest[i], err = erofs.Open(data); err != nil {
			return nil, fmt.Errorf("layer %s: %w", layer.DiffID, err)
		}
	}
	t.FS = erofs.Overlay(lowest...)
	return t, nil
}

// Close closes the blobs.
func (t *Tree) Close() error {
	var errs []error
	for _, f := range t.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
