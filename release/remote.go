package release

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
)

// Ranged gives parts of blobs, unchecked.
type Ranged interface {
	Range(ctx context.Context, desc ocispec.Descriptor, off, n int64) (io.ReadCloser, error)
}

// Remote returns the blobs of the artifact's layers, each read where it is, by parts. Nothing of them has been
// checked. They can be read until ctx ends, and keep some of what was read last: 64 MiB, all together.
func (a Artifact) Remote(ctx context.Context, from Ranged) []image.Blob {
	var all []image.Blob
	kept := &pieces{}
	for i, l := range a.Release.Layers {
		all = append(all, image.Blob{Layer: l, ReaderAt: &remote{ctx: ctx, from: from, desc: a.Blobs[i], kept: kept}})
	}
	return all
}

// remote reads a blob in a registry, in pieces that it keeps.
type remote struct {
	ctx  context.Context //nolint:containedctx // io.ReaderAt has none, and it lives as long as one call
	from Ranged
	desc ocispec.Descriptor
	kept *pieces
}

// pieces are what was read last.
type pieces struct {
	mu  sync.Mutex
	all map[pieceKey][]byte
}

type pieceKey struct {
	blob digest.Digest
	at   int64
}

// A piece is one request's; so many are kept. What is read of a layer that is not converted are directories and boot
// files.
const (
	pieceSize = 256 << 10
	maxPieces = 256
)

func (r *remote) ReadAt(p []byte, off int64) (done int, err error) {
	for done < len(p) {
		at := (off + int64(done)) / pieceSize * pieceSize
		piece, err := r.piece(at)
		if err != nil {
			return done, err
		}
		n := copy(p[done:], piece[min(off+int64(done)-at, int64(len(piece))):])
		if n == 0 {
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}

func (r *remote) piece(at int64) ([]byte, error) {
	k := r.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	key := pieceKey{r.desc.Digest, at}
	if p := k.all[key]; p != nil {
		return p, nil
	}
	n := min(pieceSize, r.desc.Size-at)
	if n <= 0 {
		return nil, io.EOF
	}
	body, err := r.from.Range(r.ctx, r.desc, at, n)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	p := make([]byte, n)
	if _, err := io.ReadFull(body, p); err != nil {
		return nil, fmt.Errorf("blob %s: %w", r.desc.Digest, err)
	}
	if k.all == nil || len(k.all) >= maxPieces {
		k.all = map[pieceKey][]byte{}
	}
	k.all[key] = p
	return p, nil
}
