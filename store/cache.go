package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// Cache keeps converted layers between builds, in one store for each way of converting:
//
//	<dir>/<compression>-<level>-v<erofs.FormatVersion>/blobs/…
//
// Nothing in it is precious: a blob is verified when it is used, rebuilt where it is
// damaged, and removed when the cache grows too large, the longest unused first.
type Cache struct {
	dir string
	max int64
}

// NewCache returns the cache in a folder. It is kept below max bytes; 0 means no limit.
func NewCache(dir string, max int64) *Cache { return &Cache{dir: dir, max: max} }

// Blob is an open blob. Removing it from the cache does not take it away.
type Blob struct {
	layout.Layer
	io.ReaderAt
	io.Closer
	Hit bool // the cache had it
}

// TotalSize is the size of the file: data and verity tree.
func (b *Blob) TotalSize() int64 { return verity.TotalSize(b.Layer.Size) }

// Get returns the blob of a layer, made with o. Where the cache has none, or a damaged
// one, it makes it from the uncompressed tar that open gives.
func (c *Cache) Get(
	ctx context.Context,
	diffID layout.Digest,
	o erofs.Options,
	open func(context.Context) (io.ReadCloser, error),
) (*Blob, error) {
	s := c.store(o)
	blob, err := c.hit(s, diffID)
	if blob != nil || err != nil {
		return blob, err
	}
	tar, err := open(ctx)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", diffID, err)
	}
	defer tar.Close()
	layer, err := s.AddLayer(ctx, diffID, tar, o)
	if err != nil {
		return nil, err
	}
	f, err := s.OpenBlob(diffID)
	if err != nil {
		return nil, err
	}
	if err := c.evict(layer.DiffID); err != nil {
		f.Close()
		return nil, err
	}
	return &Blob{Layer: layer, ReaderAt: f, Closer: f}, nil
}

// Has says whether the cache has a layer's blob, made with o. It does not look at its bytes.
func (c *Cache) Has(diffID layout.Digest, o erofs.Options) bool {
	_, ok, err := c.store(o).Layer(diffID)
	return ok && err == nil
}

// Remove takes a layer's blob, made with o, out of the cache. Whoever has it open keeps it.
func (c *Cache) Remove(diffID layout.Digest, o erofs.Options) error {
	return c.store(o).removeBlob(diffID)
}

func (c *Cache) store(o erofs.Options) *Store {
	name := o.Compression
	if name == "" {
		name = "none"
	}
	// Lazy: after a power cut the check on use finds what did not reach the disk.
	return NewOn(
		filepath.Join(c.dir, fmt.Sprintf("%s-%d-v%d", name, o.Level, erofs.FormatVersion)),
		&durable.FS{Lazy: true},
	)
}

func (c *Cache) hit(s *Store, diffID layout.Digest) (*Blob, error) {
	layer, ok, err := s.Layer(diffID)
	if !ok || err != nil {
		return nil, err
	}
	f, err := s.OpenBlob(diffID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // another process has just removed it
	}
	if err != nil {
		return nil, err
	}
	if err := verity.Verify(f, layer.Size, layer.RootHash); err != nil {
		f.Close()
		return nil, s.removeBlob(diffID)
	}
	now := time.Now()
	_ = os.Chtimes(f.Name(), now, now) // the time of its last use; an old one only shortens its life
	return &Blob{Layer: layer, ReaderAt: f, Closer: f, Hit: true}, nil
}

// evict removes the blobs that were not used for the longest time, until the cache is
// below its limit. It spares the one that was just added.
func (c *Cache) evict(spare layout.Digest) error {
	if c.max <= 0 {
		return nil
	}
	type file struct {
		s    *Store
		id   layout.Digest
		size int64
		used time.Time
	}
	var files []file
	var total int64
	stores, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("layer cache: %w", err)
	}
	for _, d := range stores {
		s := NewOn(filepath.Join(c.dir, d.Name()), &durable.FS{Lazy: true})
		err := s.view().walkBlobs(func(dir string, e fs.DirEntry) error {
			if isTemp(e) {
				return s.fs.RemoveLeftovers(s.path(dir))
			}
			name, ext := e.Name(), filepath.Ext(e.Name())
			info, err := e.Info()
			if err != nil || ext != ".erofs" {
				return nil
			}
			id, err := layout.ParseDigest("sha256:" + name[:len(name)-len(ext)])
			if err != nil {
				return nil
			}
			total += info.Size()
			if id != spare {
				files = append(files, file{s, id, info.Size(), info.ModTime()})
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("layer cache: %w", err)
		}
	}
	slices.SortFunc(files, func(a, b file) int { return a.used.Compare(b.used) })
	for _, f := range files {
		if total <= c.max {
			break
		}
		if err := f.s.removeBlob(f.id); err != nil {
			return fmt.Errorf("layer cache: %w", err)
		}
		total -= f.size
	}
	return nil
}
