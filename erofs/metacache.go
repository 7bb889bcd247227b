package erofs

import (
	"io"
	"sync"
)

// metaCache reads metadata, which comes in small pieces that lie side by side, by whole
// blocks and keeps some of them.
type metaCache struct {
	r  io.ReaderAt
	mu sync.Mutex

	blocks [64]struct {
		block int64 // plus one; 0 is an empty place
		b     []byte
	}
}

func (c *metaCache) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	done := 0
	for done < len(p) {
		at := off + int64(done)
		b, err := c.block(at >> blockBits)
		if err != nil {
			return done, err
		}
		n := copy(p[done:], b[min(int64(len(b)), at&(blockSize-1)):])
		if n == 0 {
			return done, io.ErrUnexpectedEOF
		}
		done += n
	}
	return done, nil
}

func (c *metaCache) block(i int64) ([]byte, error) {
	s := &c.blocks[i%int64(len(c.blocks))]
	if s.block == i+1 {
		return s.b, nil
	}
	s.block = 0
	s.b = append(s.b[:0], zeroBlock[:]...)
	n, err := c.r.ReadAt(s.b, i<<blockBits)
	if err != nil && (err != io.EOF || n == 0) {
		return nil, err
	}
	s.b, s.block = s.b[:n], i+1
	return s.b, nil
}
