package erofs

import (
	"errors"
	"hash"
	"io"

	"github.com/cespare/xxhash/v2"
)

// bufferSize is how much is handed to the destination at once.
const bufferSize = 1 << 20

// blocks writes the image from its second block on, in order. The first block is the
// superblock, which is known last. While one buffer is being written, by a goroutine of
// its own, the next is filled.
type blocks struct {
	dst   io.WriterAt
	buf   []byte // being filled; its start is a whole block
	off   int64  // of buf in the image
	sum   hash.Hash
	full  chan buffer
	empty chan []byte
	done  chan error
	err   error
}

type buffer struct {
	b   []byte
	off int64
}

// errTooBig is what an image gets that block numbers of 32 bits do not reach.
var errTooBig = errors.New("image of 16 TiB or more")

// newBlocks returns a writer that adds a fingerprint of everything written to sum.
// close must be called.
func newBlocks(dst io.WriterAt, sum hash.Hash) *blocks {
	const depth = 3
	w := &blocks{dst: dst, off: blockSize, sum: sum, buf: make([]byte, 0, bufferSize),
		full: make(chan buffer, depth), empty: make(chan []byte, depth), done: make(chan error, 1)}
	for range depth {
		w.empty <- make([]byte, 0, bufferSize)
	}
	go w.run()
	return w
}

func (w *blocks) run() {
	var first error
	for f := range w.full {
		if first == nil {
			_, first = w.dst.WriteAt(f.b, f.off)
		}
		w.empty <- f.b[:0]
	}
	w.done <- first
}

// next returns the number of the block that the next byte goes to. It is meant for when
// whole blocks have been written.
func (w *blocks) next() uint32 { return uint32((w.off + int64(len(w.buf))) >> blockBits) }

// space returns room for up to n bytes, at least one; grow then says how many were used.
func (w *blocks) space(n int64) ([]byte, error) {
	if len(w.buf) == cap(w.buf) {
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	room := w.buf[len(w.buf):cap(w.buf)]
	return room[:min(n, int64(len(room)))], nil
}

func (w *blocks) grow(n int) { w.buf = w.buf[:len(w.buf)+n] }

func (w *blocks) Write(p []byte) (int, error) {
	for written := 0; ; {
		if written == len(p) {
			return written, nil
		}
		room, err := w.space(int64(len(p) - written))
		if err != nil {
			return written, err
		}
		n := copy(room, p[written:])
		w.grow(n)
		written += n
	}
}

// pad fills the current block with zeros.
func (w *blocks) pad() {
	n := len(w.buf)
	w.buf = w.buf[:roundUp(int64(n), blockSize)]
	clear(w.buf[n:])
}

// flush hands the buffer over. Buffers are flushed when they are full, so the same
// content has the same fingerprint.
func (w *blocks) flush() error {
	if w.err != nil {
		return w.err
	}
	var sum [8]byte
	h := xxhash.Sum64(w.buf)
	for i := range sum {
		sum[i] = byte(h >> (8 * i))
	}
	w.sum.Write(sum[:])
	w.full <- buffer{w.buf, w.off}
	w.off += int64(len(w.buf))
	w.buf = <-w.empty
	if w.off>>blockBits > 0xFFFFFFFF {
		w.err = errTooBig
	}
	return w.err
}

// close writes what is left, whole blocks, and waits for all writes. It returns the
// image's size, once.
func (w *blocks) close() (size int64, err error) {
	if len(w.buf) > 0 {
		w.flush() // its error is kept
	}
	close(w.full)
	err = <-w.done
	if w.err == nil {
		w.err = err
	}
	return w.off, w.err
}
