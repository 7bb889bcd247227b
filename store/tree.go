package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// Tree is the root file system of a release, read through its blobs without a mount. Each
// block is checked against the root hashes when it is read, as the kernel would do it.
type Tree struct {
	fs.FS
	trees []fs.FS     // of the layers
	files []io.Closer // to close with it
}

// MergedTree is the merged tree of blobs, the lowest first, as overlayfs would show it. They may be of several stores.
// They stay the caller's to close, when the tree is not used any more.
func MergedTree(blobs []*Blob) (*Tree, error) {
	t := &Tree{}
	for _, b := range blobs {
		data, err := verity.NewReader(b, b.Layer.Size, b.RootHash)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", b.DiffID, err)
		}
		tree, err := erofs.Open(data)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", b.DiffID, err)
		}
		t.trees = append(t.trees, tree)
	}
	t.FS = erofs.Overlay(t.trees...)
	return t, nil
}

// Tree opens the merged tree of layers of the store, the lowest first.
func (s *Store) Tree(layers []layout.Layer) (_ *Tree, err error) {
	var blobs []*Blob
	var files []io.Closer
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(files))
		}
	}()
	for _, layer := range layers {
		f, err := s.OpenBlob(layer.DiffID)
		if err != nil {
			return nil, err
		}
		blobs, files = append(blobs, &Blob{Layer: layer, ReaderAt: f, Closer: f}), append(files, f)
	}
	t, err := MergedTree(blobs)
	if err != nil {
		return nil, err
	}
	t.files = files
	return t, nil
}

// Layers returns the trees of the layers, the lowest first, each with its whiteouts as they are.
func (t *Tree) Layers() []fs.FS { return t.trees }

// FixUp adds the layer that goes on top of layers, the lowest first, where one has to: see
// [erofs.FixUp]. It returns the layers with it.
func (s *Store) FixUp(ctx context.Context, layers []layout.Layer, o erofs.Options) ([]layout.Layer, error) {
	t, err := s.Tree(layers)
	if err != nil {
		return nil, err
	}
	tar, err := erofs.FixUp(t.trees...)
	if err := errors.Join(err, t.Close()); err != nil {
		return nil, err
	}
	if tar == nil {
		return layers, nil
	}
	sum := sha256.Sum256(tar)
	layer, err := s.AddLayer(ctx, layout.Digest("sha256:"+hex.EncodeToString(sum[:])), bytes.NewReader(tar), o)
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(layers), layer), nil
}

// Compression says how the blob of a layer is compressed. It reads the first block, unverified.
func (s *Store) Compression(layer layout.Layer) (erofs.Compression, error) {
	f, err := s.OpenBlob(layer.DiffID)
	if err != nil {
		return "", err
	}
	defer f.Close()
	tree, err := erofs.Open(io.NewSectionReader(f, 0, layer.Size))
	if err != nil {
		return "", fmt.Errorf("layer %s: %w", layer.DiffID, err)
	}
	return tree.Compression(), nil
}

// Close closes the blobs that are the tree's.
func (t *Tree) Close() error { return closeAll(t.files) }

func closeAll(files []io.Closer) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
