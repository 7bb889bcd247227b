package verity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

// CorruptError says that data or tree are not those of the root hash.
type CorruptError struct {
	What string // "superblock", "data", "tree" or "root hash"
	// Block is the number of the first bad block: of the data, or of the file for the tree.
	Block int64
}

func (e *CorruptError) Error() string {
	switch e.What {
	case "data", "tree":
		return fmt.Sprintf("verity: %s is damaged at block %d", e.What, e.Block)
	}
	return fmt.Sprintf("verity: %s does not match", e.What)
}

// Verify reads all of the data, the superblock and the tree, and returns nil if the kernel
// would accept every block of them under this root hash. Otherwise the error is a
// *[CorruptError], or that of reading.
func Verify(r io.ReaderAt, dataSize int64, rootHex string) error {
	root, err := begin(r, dataSize, rootHex)
	if err != nil {
		return err
	}
	w := NewWriter(discard{})
	if err := copyBlocks(w, r, dataSize); err != nil {
		return err
	}
	w.busy.Wait()
	got, all, err := w.tree.result(dataSize / BlockSize)
	if err != nil {
		return err
	}
	if len(all) == 0 && got != root {
		return &CorruptError{What: "data"}
	}
	// Level 0 first: its first difference names the damaged data block.
	for i, at := range levelOffsets(dataSize) {
		if err := compareLevel(r, all[i], at, i == 0, got == root); err != nil {
			return err
		}
	}
	if got != root {
		return &CorruptError{What: "root hash"}
	}
	return nil
}

func compareLevel(r io.ReaderAt, want [][]byte, at int64, leaf, dataIsGood bool) error {
	block := make([]byte, BlockSize)
	for i, w := range want {
		if err := readBlock(r, block, at+int64(i)*BlockSize); err != nil {
			return err
		}
		if bytes.Equal(block, w) {
			continue
		}
		if leaf && !dataIsGood {
			for j := 0; j < perBlock; j++ {
				if !bytes.Equal(block[j*digestSize:(j+1)*digestSize], w[j*digestSize:(j+1)*digestSize]) {
					return &CorruptError{What: "data", Block: int64(i)*perBlock + int64(j)}
				}
			}
		}
		return &CorruptError{What: "tree", Block: at/BlockSize + int64(i)}
	}
	return nil
}

// begin checks what is known of a blob before its tree is read, and returns the root hash.
func begin(r io.ReaderAt, dataSize int64, rootHex string) (root [digestSize]byte, err error) {
	if root, err = parseRoot(rootHex); err == nil {
		err = checkSize(dataSize)
	}
	if err == nil {
		err = checkSuperblock(r, dataSize)
	}
	return root, err
}

func checkSuperblock(r io.ReaderAt, dataSize int64) error {
	block := make([]byte, BlockSize)
	if err := readBlock(r, block, dataSize); err != nil {
		return err
	}
	sb, err := ParseSuperblock(block)
	if err != nil {
		return fmt.Errorf("%w: %w", &CorruptError{What: "superblock"}, err)
	}
	if sb.DataBlocks != uint64(dataSize/BlockSize) {
		return &CorruptError{What: "superblock"}
	}
	return nil
}

func copyBlocks(w io.WriterAt, r io.ReaderAt, size int64) error {
	buf := make([]byte, min(1<<20, size))
	for off := int64(0); off < size; off += int64(len(buf)) {
		p := buf[:min(int64(len(buf)), size-off)]
		if err := readBlock(r, p, off); err != nil {
			return err
		}
		if _, err := w.WriteAt(p, off); err != nil {
			return err
		}
	}
	return nil
}

// readBlock fills p. A file that ends before is damage.
func readBlock(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("verity: read at %d: %w", off, err)
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// Reader gives the data, each block checked against the root hash when it is read.
type Reader struct {
	r       io.ReaderAt
	size    int64
	root    [digestSize]byte
	offsets []int64

	mu     sync.Mutex
	hashes map[int64][]byte // verified hash blocks by offset in the file
	recent [64]cached       // verified data blocks, by number modulo its length
}

type cached struct {
	data  []byte
	block int64
}

// NewReader returns the data of a file, verified: a read that would give wrong data gives
// a *[CorruptError] instead. The result is safe for use by several goroutines. It keeps
// the hash blocks that it has seen: at most 1/127 of the data's size.
func NewReader(r io.ReaderAt, dataSize int64, rootHex string) (*Reader, error) {
	root, err := parseRoot(rootHex)
	if err != nil {
		return nil, err
	}
	if err := checkSize(dataSize); err != nil {
		return nil, err
	}
	if err := checkSuperblock(r, dataSize); err != nil {
		return nil, err
	}
	return &Reader{r: r, size: dataSize, root: root, offsets: levelOffsets(dataSize), hashes: map[int64][]byte{}}, nil
}

// Size returns the size of the data.
func (v *Reader) Size() int64 { return v.size }

// ReadAt implements io.ReaderAt.
func (v *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("verity: read at %d", off)
	}
	done := 0
	for done < len(p) && off < v.size {
		block, err := v.block(off / BlockSize)
		if err != nil {
			return done, err
		}
		n := copy(p[done:], block[off%BlockSize:])
		done += n
		off += int64(n)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// block returns a verified block of the data. The caller must not change it.
func (v *Reader) block(i int64) ([]byte, error) {
	v.mu.Lock()
	if c := v.recent[i%int64(len(v.recent))]; c.data != nil && c.block == i {
		v.mu.Unlock()
		return c.data, nil
	}
	v.mu.Unlock()

	data := make([]byte, BlockSize)
	if err := readBlock(v.r, data, i*BlockSize); err != nil {
		return nil, err
	}
	want, err := v.digest(0, i)
	if err != nil {
		return nil, err
	}
	if !matches(data, want) {
		return nil, &CorruptError{What: "data", Block: i}
	}
	v.mu.Lock()
	v.recent[i%int64(len(v.recent))] = cached{data, i}
	v.mu.Unlock()
	return data, nil
}

// digest returns the verified digest of block i below a level: level 0 has the digests of
// the data, level 1 those of level 0's blocks.
func (v *Reader) digest(level int, i int64) ([]byte, error) {
	if level == len(v.offsets) {
		return v.root[:], nil
	}
	at := v.offsets[level] + i/perBlock*BlockSize
	v.mu.Lock()
	block := v.hashes[at]
	v.mu.Unlock()
	if block == nil {
		block = make([]byte, BlockSize)
		if err := readBlock(v.r, block, at); err != nil {
			return nil, err
		}
		want, err := v.digest(level+1, i/perBlock)
		if err != nil {
			return nil, err
		}
		if !matches(block, want) {
			return nil, &CorruptError{What: "tree", Block: at / BlockSize}
		}
		v.mu.Lock()
		v.hashes[at] = block
		v.mu.Unlock()
	}
	at = i % perBlock * digestSize
	return block[at : at+digestSize], nil
}

var hashers = sync.Pool{New: func() any { return newHasher() }}

func matches(block, want []byte) bool {
	var got [digestSize]byte
	h := hashers.Get().(*hasher)
	defer hashers.Put(h)
	h.sum(got[:], block)
	return bytes.Equal(got[:], want)
}
