package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory that a zstd layer asks for: as the zstd program does where nobody
// told it otherwise.
const maxWindow = 128 << 20

// Open opens a layer's bytes, compressed or not.
type Open func(context.Context) (io.ReadCloser, error)

// Uncompressed returns what opens a layer's tar. limit may be nil.
func Uncompressed(open Open, limit *Limit) Open {
	used := limit.layer()
	return func(ctx context.Context) (io.ReadCloser, error) {
		blob, err := open(ctx)
		if err != nil {
			return nil, err
		}
		tar, err := decompress(blob)
		if err != nil {
			return nil, errors.Join(err, blob.Close())
		}
		return &layerReader{tar: tar, blob: blob, used: used}, nil
	}
}

// decompress knows what the OCI image specification lets a layer be: gzip, zstd, or neither.
func decompress(blob io.Reader) (io.ReadCloser, error) {
	r := bufio.NewReaderSize(blob, 64<<10)
	magic, err := r.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b, 8}):
		return gzip.NewReader(r)
	// A frame, or one that is skipped (RFC 8878, 3.1.2), such as zstd:chunked has them.
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}

type layerReader struct {
	tar  io.ReadCloser
	blob io.ReadCloser
	used *usage
	n    int64
}

func (l *layerReader) Read(p []byte) (int, error) {
	n, err := l.tar.Read(p)
	l.n += int64(n)
	if e := l.used.reach(l.n); e != nil {
		return n, e
	}
	if err == io.EOF {
		// What follows on the compressed data belongs to the blob's digest.
		if _, e := io.Copy(io.Discard, l.blob); e != nil {
			return n, e
		}
	}
	return n, err
}

func (l *layerReader) Close() error { return errors.Join(l.tar.Close(), l.blob.Close()) }

// Limit bounds what an image's layers have uncompressed, all together: a few kilobytes that
// are decompressed may be a terabyte.
type Limit struct {
	Max int64 // in bytes

	mu    sync.Mutex
	total int64
}

// usage is one layer's part of it. A layer that is read again is counted once.
type usage struct {
	limit *Limit
	most  int64
}

func (l *Limit) layer() *usage { return &usage{limit: l} }

func (u *usage) reach(n int64) error {
	if u.limit == nil || u.limit.Max <= 0 {
		return nil
	}
	u.limit.mu.Lock()
	defer u.limit.mu.Unlock()
	if n > u.most {
		u.limit.total += n - u.most
		u.most = n
	}
	if u.limit.total > u.limit.Max {
		return fmt.Errorf("%w: they have more than %d MiB uncompressed", ErrTooLarge, u.limit.Max>>20)
	}
	return nil
}

// ErrTooLarge says that an image's layers take more than they may.
var ErrTooLarge = errors.New("the image's layers are too large")
