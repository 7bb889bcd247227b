package store

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/layout"
)

// WriteBlob makes a layer's blob of its data, of which write gives each block of 4096 bytes once, in any order. A blob
// whose root hash is not the layer's changes nothing. Where the store has the layer already, maybe in another format,
// that one stays and is returned. What was written when write fails, or the process ends, is there for write to read
// the next time, until another run makes the layer, or GC removes it.
func (s *Store) WriteBlob(
	ctx context.Context, layer layout.Layer, write func(*BlobWriter) error,
) (layout.Layer, error) {
	return s.add(ctx, layer.DiffID, adding{resume: true}, func(w *BlobWriter) (int64, string, error) {
		return layer.Size, layer.RootHash, write(w)
	})
}

// Begun opens what an interrupted [Store.WriteBlob] has written; the error is [fs.ErrNotExist] without one. It may be
// anything, and takes up so many bytes of the disk.
func (s *Store) Begun(diffID layout.Digest) (f *os.File, takes int64, err error) {
	if f, err = os.Open(durable.TempName(s.BlobPath(diffID))); err != nil {
		return nil, 0, fmt.Errorf("layer %s: %w", diffID, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("layer %s: %w", diffID, err)
	}
	return f, st.Blocks * 512, nil
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
