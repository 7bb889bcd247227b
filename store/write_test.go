package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release/blocks"
	"github.com/kairos-buildkit/kairos/verity"
)

// What an interrupted run has written of a blob is there for the next one, whatever it is, and the blob is the same.
func TestWriteBlobIsResumed(t *testing.T) {
	const block = verity.BlockSize
	data := make([]byte, 3000*block)
	rand.NewChaCha8([32]byte{1}).Read(data)
	want := make([]byte, verity.TotalSize(int64(len(data))))
	w := verity.NewWriter(writer(want))
	if _, err := w.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	root, _, err := w.Finish(int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	l := layout.Layer{DiffID: layout.SHA256([32]byte{1}), Size: int64(len(data)), RootHash: root}
	damage := func(f *os.File) error {
		_, err := f.WriteAt([]byte("damaged"), 5*block)
		return err
	}
	for name, c := range map[string]struct {
		left    func(f *os.File) error // what happens to what was left
		fetched int64                  // blocks that are asked for the second time
	}{
		"as it was":    {func(*os.File) error { return nil }, 3000 - 1024},
		"a block lost": {damage, 3000 - 1024 + 1},
		"all lost":     {func(f *os.File) error { return f.Truncate(0) }, 3000},
		"longer":       {func(f *os.File) error { return f.Truncate(1 << 26) }, 3000 - 1024},
	} {
		s := New(t.TempDir())
		var asked atomic.Int64 // several ranges are fetched at a time
		cut := false
		remote := func(_ context.Context, off, n int64) (io.ReadCloser, error) {
			if cut && off >= 1024*block && off < l.Size {
				return nil, blocks.Final{Err: errors.New("cut")}
			}
			if off < l.Size {
				asked.Add(n / block)
			}
			return io.NopCloser(bytes.NewReader(want[off : off+n])), nil
		}
		fetch := func() error {
			plan, err := blocks.Look(t.Context(), l, remote, nil)
			if err != nil {
				return err
			}
			_, err = s.WriteBlob(t.Context(), l, func(w *BlobWriter) error {
				parts := blocks.Remote(remote)
				if cut {
					parts = serial(remote)
				}
				_, err := plan.Write(t.Context(), parts, w, nil)
				return err
			})
			return err
		}
		cut = true
		if err := fetch(); err == nil {
			t.Fatalf("%s: it was not cut", name)
		}
		f, takes, err := s.Begun(l.DiffID)
		if err != nil || takes < 1024*block {
			t.Fatalf("%s: %d bytes, %v", name, takes, err)
		}
		f.Close()
		if f, err = os.OpenFile(f.Name(), os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.left(f), f.Close()); err != nil {
			t.Fatal(err)
		}
		cut = false
		asked.Store(0)
		if err := fetch(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := os.ReadFile(s.BlobPath(l.DiffID))
		if err != nil || !bytes.Equal(got, want) || asked.Load() != c.fetched {
			t.Errorf("%s: %v, %d blocks asked for, want %d", name, err, asked.Load(), c.fetched)
		}
		if _, _, err := s.Begun(l.DiffID); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// serial has the first range end before another one begins, so that it is written when those fail.
func serial(r blocks.Remote) blocks.Remote {
	first := make(chan struct{})
	return func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
		if off == 0 {
			body, err := r(ctx, off, n)
			return closed{body, first}, err
		}
		select {
		case <-first:
		case <-ctx.Done():
		}
		return r(ctx, off, n)
	}
}

type closed struct {
	io.ReadCloser
	first chan struct{}
}

func (c closed) Close() error { close(c.first); return c.ReadCloser.Close() }

type writer []byte

func (w writer) WriteAt(p []byte, off int64) (int, error) { return copy(w[off:], p), nil }
