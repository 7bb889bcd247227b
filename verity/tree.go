package verity

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"runtime"
	"sync"
)

// TotalSize returns the size of data together with its superblock and tree.
func TotalSize(dataSize int64) int64 {
	total := dataSize + BlockSize
	for _, n := range levels(dataSize / BlockSize) {
		total += n * BlockSize
	}
	return total
}

// levels returns the number of hash blocks in each level, level 0 first.
func levels(dataBlocks int64) []int64 {
	var l []int64
	for n := dataBlocks; n > 1; {
		n = (n + perBlock - 1) / perBlock
		l = append(l, n)
	}
	return l
}

// levelOffsets returns where each level begins in the file, level 0 first.
func levelOffsets(dataSize int64) []int64 {
	l := levels(dataSize / BlockSize)
	offsets := make([]int64, len(l))
	at := dataSize + BlockSize
	for i := len(l) - 1; i >= 0; i-- {
		offsets[i] = at
		at += l[i] * BlockSize
	}
	return offsets
}

// page is one block of level 0, and which of its data blocks it has the digest of.
type page struct {
	digests [BlockSize]byte
	seen    [perBlock / 64]uint64
}

// tree collects the digests of data blocks that come in any order.
type tree struct {
	mu    sync.Mutex
	pages []*page
}

// claim notes that the blocks from first on are about to be hashed, each for the first time.
func (t *tree) claim(first, n int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := first; i < first+n; i++ {
		for int64(len(t.pages)) <= i/perBlock {
			t.pages = append(t.pages, nil)
		}
		if t.pages[i/perBlock] == nil {
			t.pages[i/perBlock] = new(page)
		}
		word, bit := &t.pages[i/perBlock].seen[i%perBlock/64], uint64(1)<<(i%64)
		if *word&bit != 0 {
			return fmt.Errorf("verity: block %d written twice", i)
		}
		*word |= bit
	}
	return nil
}

// hash puts the digests of the blocks in p, the first of which has the number first, into
// their pages. Calls for different blocks may run at the same time.
func (t *tree) hash(p []byte, first int64) {
	h := newHasher()
	for ; len(p) > 0; p, first = p[BlockSize:], first+1 {
		t.mu.Lock()
		page := t.pages[first/perBlock]
		t.mu.Unlock()
		at := first % perBlock * digestSize
		h.sum(page.digests[at:at+digestSize], p[:BlockSize])
	}
}

// check says whether exactly the blocks below n have come.
func (t *tree) check(n int64) error {
	if int64(len(t.pages)) > (n+perBlock-1)/perBlock {
		return fmt.Errorf("verity: a block beyond the %d blocks of the data was written", n)
	}
	for i := range int64(len(t.pages)) * perBlock {
		p := t.pages[i/perBlock]
		seen := p != nil && p.seen[i%perBlock/64]>>(i%64)&1 == 1
		switch {
		case i < n && !seen:
			return fmt.Errorf("verity: block %d was never written", i)
		case i >= n && seen:
			return fmt.Errorf("verity: block %d is beyond the %d blocks of the data", i, n)
		}
	}
	if int64(len(t.pages))*perBlock < n {
		return fmt.Errorf("verity: block %d was never written", int64(len(t.pages))*perBlock)
	}
	return nil
}

// finish computes all levels above level 0. It returns the root hash and each level's
// bytes in blocks, level 0 first.
func (t *tree) finish() (root [digestSize]byte, all [][][]byte) {
	level := make([][]byte, len(t.pages))
	for i, p := range t.pages {
		level[i] = p.digests[:]
	}
	for {
		all = append(all, level)
		if len(level) == 1 {
			newHasher().sum(root[:], level[0])
			return root, all
		}
		upper := make([][]byte, (len(level)+perBlock-1)/perBlock)
		for i := range upper {
			upper[i] = make([]byte, BlockSize)
		}
		parallel(len(level), func(from, to int) {
			h := newHasher()
			for i := from; i < to; i++ {
				at := i % perBlock * digestSize
				h.sum(upper[i/perBlock][at:at+digestSize], level[i])
			}
		})
		level = upper
	}
}

// result is finish for n data blocks: one block has no tree, its digest is the root.
func (t *tree) result(n int64) (root [digestSize]byte, all [][][]byte, err error) {
	if n < 1 {
		return root, nil, fmt.Errorf("verity: no data")
	}
	if err := t.check(n); err != nil {
		return root, nil, err
	}
	if n == 1 {
		copy(root[:], t.pages[0].digests[:])
		return root, nil, nil
	}
	root, all = t.finish()
	return root, all, nil
}

func parallel(n int, do func(from, to int)) {
	step := max(64, (n+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for from := 0; from < n; from += step {
		wg.Go(func() { do(from, min(from+step, n)) })
	}
	wg.Wait()
}

// hasher makes digests without allocating for each.
type hasher struct {
	h   hash.Hash
	out [digestSize]byte
}

var salt [saltSize]byte

func newHasher() *hasher { return &hasher{h: sha256.New()} }

func (h *hasher) sum(dst, block []byte) {
	h.h.Reset()
	h.h.Write(salt[:])
	h.h.Write(block)
	copy(dst, h.h.Sum(h.out[:0]))
}

func parseRoot(rootHex string) (root [digestSize]byte, err error) {
	b, err := hex.DecodeString(rootHex)
	if err != nil || len(b) != digestSize {
		return root, fmt.Errorf("verity: root hash %q: want %d hex digits", rootHex, 2*digestSize)
	}
	copy(root[:], b)
	return root, nil
}

func checkSize(dataSize int64) error {
	if dataSize <= 0 || dataSize%BlockSize != 0 {
		return fmt.Errorf("verity: data of %d bytes: want a positive multiple of %d", dataSize, BlockSize)
	}
	return nil
}
