package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// MaxMetadata bounds an index, a manifest and a config in bytes. BuildKit's provenance makes
// the largest ones; containerd's bound is the same.
const MaxMetadata = 8 << 20

// Blobs gives the content that a descriptor names. It need not check it.
type Blobs interface {
	Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// ReadBlob reads metadata, and checks that it is what was asked for.
func ReadBlob(ctx context.Context, from Blobs, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > MaxMetadata {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, &bounded.SizeError{Max: MaxMetadata})
	}
	r, err := OpenBlob(ctx, from, desc)
	if err != nil {
		return nil, err
	}
	b, err := bounded.ReadAll(r, MaxMetadata)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	return b, nil
}

func readJSON(ctx context.Context, from Blobs, desc ocispec.Descriptor, to any) error {
	b, err := ReadBlob(ctx, from, desc)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, to); err != nil {
		return fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	return nil
}

// OpenBlob opens a blob whose end is only reached if it is what the descriptor says.
func OpenBlob(ctx context.Context, from Blobs, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("blob %q: %w", desc.Digest, err)
	}
	if desc.Size < 0 {
		return nil, fmt.Errorf("blob %s: size %d", desc.Digest, desc.Size)
	}
	r, err := from.Open(ctx, desc)
	if err != nil {
		return nil, err
	}
	return &checked{ReadCloser: r, want: desc, sum: desc.Digest.Algorithm().Hash()}, nil
}

// checked is a blob that is compared with its descriptor as it is read.
type checked struct {
	io.ReadCloser
	want ocispec.Descriptor
	sum  hash.Hash
	n    int64
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.sum.Write(p[:n])
	if c.n += int64(n); c.n > c.want.Size {
		return n, fmt.Errorf(
			"blob %s: it has more than the %d bytes that it should have: it is damaged",
			c.want.Digest,
			c.want.Size,
		)
	}
	if err != io.EOF {
		return n, err
	}
	if c.n != c.want.Size {
		return n, fmt.Errorf("blob %s: it has %d bytes instead of %d: it is damaged", c.want.Digest, c.n, c.want.Size)
	}
	if got := fmt.Sprintf("%x", c.sum.Sum(nil)); got != c.want.Digest.Encoded() {
		return n, fmt.Errorf("blob %s: its content is another one, %s: it is damaged", c.want.Digest, got)
	}
	return n, io.EOF
}
