package erofs

import (
	"encoding/binary"
	"fmt"
	"io"
)

// readAt fills p with the inode's content from off on. It returns io.EOF where the
// content ends before p does.
func (f *FS) readAt(n *inode, p []byte, off int64) (int, error) {
	var eof error
	if off >= n.size {
		return 0, io.EOF
	}
	if int64(len(p)) > n.size-off {
		p, eof = p[:n.size-off], io.EOF
	}
	done := 0
	for done < len(p) {
		c, err := f.piece(n, p[done:], off+int64(done))
		if err != nil {
			return done, fmt.Errorf("inode %d: %w", n.nid, err)
		}
		done += c
	}
	return done, eof
}

// piece reads a part of what readAt is asked for, at least one byte.
func (f *FS) piece(n *inode, p []byte, off int64) (int, error) {
	switch n.layout() {
	case layoutPlain:
		return f.blocksAt(p, n.where, off)
	case layoutInline:
		whole := n.size &^ (blockSize - 1)
		if off < whole {
			return f.blocksAt(p[:min(int64(len(p)), whole-off)], n.where, off)
		}
		return f.meta.ReadAt(p, n.body+off-whole)
	case layoutChunked:
		return f.chunkAt(n, p, off)
	case layoutFull, layoutCompact:
		return f.compressedAt(n, p, off)
	}
	return 0, ErrUnsupported
}

// blocksAt reads from a run of blocks.
func (f *FS) blocksAt(p []byte, start uint32, off int64) (int, error) {
	end := (off + int64(len(p)) + blockSize - 1) >> blockBits
	if end > int64(f.sb.blocks)-int64(start) {
		return 0, ErrCorrupt
	}
	return f.r.ReadAt(p, int64(start)<<blockBits+off)
}

func (f *FS) chunkAt(n *inode, p []byte, off int64) (int, error) {
	if n.where&^0x1f != 0 {
		return 0, ErrUnsupported
	}
	bits := blockBits + n.where
	var b [4]byte
	if _, err := f.meta.ReadAt(b[:], n.body+4*(off>>bits)); err != nil {
		return 0, err
	}
	within := off & (1<<bits - 1)
	p = p[:min(int64(len(p)), 1<<bits-within)]
	start := binary.LittleEndian.Uint32(b[:])
	if start == noBlock {
		clear(p)
		return len(p), nil
	}
	return f.blocksAt(p, start, within)
}
