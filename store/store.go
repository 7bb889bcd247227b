// Package store keeps layers and releases in a folder: on STATE and RECOVERY of a node, on
// live media, and as the cache of layers that builds share.
//
//	blobs/sha256/<xx>/<hex>.erofs            one layer: EROFS image, dm-verity superblock, dm-verity tree
//	blobs/sha256/<xx>/<hex>.erofs.dmverity   its root hash, in containerd's format
//	releases/<id>/release.json               one bootable version
//	releases/<id>/image                      where it was taken from, for people and for repair
//
// What has its name is complete, and on the disk: files are written under a temporary
// name, checked, fsynced and then renamed, the sidecar before its blob and
// the blobs before the release that lists them. Whatever a crash leaves is a name that
// begins with ".tmp-", which the next run reuses and GC removes.
//
// blobs/ is a layer content cache of containerd's EROFS snapshotter (2.4 and later).
package store

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// Store is a store in a folder. Several processes may use one at the same time.
type Store struct {
	dir string
	fs  *durable.FS
}

// New returns the store in a folder, which need not exist yet.
func New(dir string) *Store { return &Store{dir: dir} }

// NewOn returns the store in a folder whose files are changed through d.
func NewOn(dir string, d *durable.FS) *Store { return &Store{dir: dir, fs: d} }

// Dir returns the store's folder.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

// BlobPath returns the path of a layer's blob.
func (s *Store) BlobPath(diffID layout.Digest) string { return s.path(layout.BlobPath(diffID)) }

// Layer returns a layer that the store has, and whether it does. It looks at names and
// sizes; [Store.VerifyBlob] looks at the bytes. A blob of the wrong size, or one whose
// sidecar is missing or damaged, is as good as none: adding the layer replaces it.
func (s *Store) Layer(diffID layout.Digest) (layout.Layer, bool, error) {
	return s.view().Layer(diffID)
}

// OpenBlob opens a layer's blob for reading. It stays readable when the blob is removed.
func (s *Store) OpenBlob(diffID layout.Digest) (*os.File, error) {
	f, err := os.Open(s.BlobPath(diffID))
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", diffID, err)
	}
	return f, nil
}

// VerifyBlob reads a layer's blob as a whole, and says whether it is the one that the
// release means. See [verity.Verify].
func (s *Store) VerifyBlob(layer layout.Layer) error {
	f, err := s.OpenBlob(layer.DiffID)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := verity.Verify(f, layer.Size, layer.RootHash); err != nil {
		return fmt.Errorf("layer %s: %w", layer.DiffID, err)
	}
	return nil
}

// removeBlob removes a layer. That there is none is no error.
func (s *Store) removeBlob(diffID layout.Digest) error {
	// The blob first: a sidecar alone means nothing.
	for _, name := range []string{layout.BlobPath(diffID), layout.SidecarPath(diffID)} {
		if err := s.fs.Remove(s.path(name)); err != nil {
			return fmt.Errorf("layer %s: %w", diffID, err)
		}
	}
	return nil
}
