package verity

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// known is a tree that is there before the data: what comes is compared with it, and no second one is in memory.
type known struct {
	tree, leaves []byte
	size         int64
	root         string

	mu   sync.Mutex
	seen []uint64 // a bit for each block
	bad  *CorruptError
}

// NewWriterOf is [NewWriter] for data whose tree is there: all that is behind dataSize bytes of it, which is compared
// with the root hash first. Finish gives a *[CorruptError] where a block was not the tree's.
func NewWriterOf(dst io.WriterAt, tree []byte, dataSize int64, rootHex string) (*Writer, error) {
	leaves, err := Leaves(tree, dataSize, rootHex)
	if err != nil {
		return nil, err
	}
	w := NewWriter(dst)
	w.known = &known{
		tree: tree, leaves: leaves, size: dataSize, root: rootHex, seen: make([]uint64, (dataSize/BlockSize+63)/64),
	}
	return w, nil
}

// claim is [tree.claim].
func (k *known) claim(first, n int64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if first+n > k.size/BlockSize {
		return fmt.Errorf("verity: block %d is beyond the %d blocks of the data", first+n-1, k.size/BlockSize)
	}
	for i := first; i < first+n; i++ {
		bit := uint64(1) << (i % 64)
		if k.seen[i/64]&bit != 0 {
			return fmt.Errorf("verity: block %d written twice", i)
		}
		k.seen[i/64] |= bit
	}
	return nil
}

// compare compares blocks with their digests.
func (k *known) compare(p []byte, first int64) {
	h := newHasher()
	var sum [digestSize]byte
	for ; len(p) > 0; p, first = p[BlockSize:], first+1 {
		h.sum(sum[:], p[:BlockSize])
		if bytes.Equal(sum[:], k.leaves[first*digestSize:(first+1)*digestSize]) {
			continue
		}
		k.mu.Lock()
		if k.bad == nil || k.bad.Block > first {
			k.bad = &CorruptError{What: "data", Block: first}
		}
		k.mu.Unlock()
	}
}

// finish writes the tree behind the data.
func (k *known) finish(dst io.WriterAt, size int64) (rootHex string, total int64, err error) {
	if size != k.size {
		return "", 0, fmt.Errorf("verity: data of %d bytes, and the tree is one of %d", size, k.size)
	}
	for i := range size / BlockSize {
		if k.seen[i/64]>>(i%64)&1 == 0 {
			return "", 0, fmt.Errorf("verity: block %d was never written", i)
		}
	}
	if k.bad != nil {
		return "", 0, k.bad
	}
	if _, err := dst.WriteAt(k.tree, size); err != nil {
		return "", 0, fmt.Errorf("verity tree: %w", err)
	}
	return k.root, TotalSize(size), nil
}
