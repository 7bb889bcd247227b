package verity

import (
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"sync"
)

// Writer passes data on to a file and hashes it on the way, on all processors.
type Writer struct {
	dst     io.WriterAt
	tree    tree
	known   *known // instead of tree
	busy    sync.WaitGroup
	pending chan struct{} // one for each piece that may be in work: bounds memory
	pool    sync.Pool
}

// piece is the most that one goroutine hashes at a time: it keeps several processors busy
// with one write, and the copies in flight small.
const piece = 128 << 10

// NewWriter returns a Writer of data at the beginning of dst.
func NewWriter(dst io.WriterAt) *Writer {
	return &Writer{
		dst:     dst,
		pending: make(chan struct{}, runtime.GOMAXPROCS(0)+1),
		pool:    sync.Pool{New: func() any { return new([]byte) }},
	}
}

// WriteAt writes whole blocks. Each block of the data must be written exactly once; the
// order is free, and calls may run at the same time.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	if err := w.Keep(p, off); err != nil {
		return 0, err
	}
	return w.dst.WriteAt(p, off)
}

// Keep is WriteAt for blocks that the file has already.
func (w *Writer) Keep(p []byte, off int64) error {
	if off < 0 || off%BlockSize != 0 || len(p)%BlockSize != 0 {
		return fmt.Errorf("verity: write of %d bytes at %d: not whole blocks of %d", len(p), off, BlockSize)
	}
	claim, hash := w.tree.claim, w.tree.hash
	if w.known != nil {
		claim, hash = w.known.claim, w.known.compare
	}
	if err := claim(off/BlockSize, int64(len(p))/BlockSize); err != nil {
		return err
	}
	for at := 0; at < len(p); at += piece {
		w.pending <- struct{}{}
		// A copy, because the caller may change p as soon as WriteAt returns.
		part := p[at:min(at+piece, len(p))]
		buf := w.pool.Get().(*[]byte)
		*buf = append((*buf)[:0], part...)
		first := (off + int64(at)) / BlockSize
		w.busy.Go(func() {
			hash(*buf, first)
			w.pool.Put(buf)
			<-w.pending
		})
	}
	return nil
}

// Finish writes the superblock and the tree behind the data, whose size it is told. It
// returns the root hash in hex and the size of the whole: [TotalSize] of the data's.
func (w *Writer) Finish(size int64) (rootHex string, total int64, err error) {
	w.busy.Wait()
	if err := checkSize(size); err != nil {
		return "", 0, err
	}
	if w.known != nil {
		return w.known.finish(w.dst, size)
	}
	root, all, err := w.tree.result(size / BlockSize)
	if err != nil {
		return "", 0, err
	}
	block := make([]byte, BlockSize)
	copy(block, Superblock{UUID: uuid(root), DataBlocks: uint64(size / BlockSize)}.Marshal())
	if _, err := w.dst.WriteAt(block, size); err != nil {
		return "", 0, fmt.Errorf("verity superblock: %w", err)
	}
	for i, at := range levelOffsets(size) {
		if err := writeBlocks(w.dst, all[i], at); err != nil {
			return "", 0, fmt.Errorf("verity tree: %w", err)
		}
	}
	return hex.EncodeToString(root[:]), TotalSize(size), nil
}

// writeBlocks writes blocks one after the other, many with each call of WriteAt.
func writeBlocks(dst io.WriterAt, blocks [][]byte, at int64) error {
	const most = 64
	buf := make([]byte, 0, most*BlockSize)
	for i, b := range blocks {
		buf = append(buf, b...)
		if len(buf) == cap(buf) || i == len(blocks)-1 {
			if _, err := dst.WriteAt(buf, at); err != nil {
				return err
			}
			at += int64(len(buf))
			buf = buf[:0]
		}
	}
	return nil
}
