package erofs

import (
	"bytes"
	"context"
	"io"
	"math/bits"
)

const (
	// maxInline is the longest end of a file that is kept with its inode: so long that
	// space is saved, and so short that inodes stay close together.
	maxInline = blockSize / 2
	// inlineBudget is the memory for ends of files. What comes after it has been used
	// up gets blocks of its own.
	inlineBudget = 32 << 20
	// minChunkBits and maxChunks choose the size of what can be a hole.
	minChunkBits = 16
	maxChunks    = 1 << 18
)

// plainStore stores files as they are, except for holes: chunks of zeros.
type plainStore struct {
	out    *blocks
	inline int // bytes of inlineBudget used
	arena  []byte
}

func (s *plainStore) store(ctx context.Context, r io.Reader, size int64, _ bool, room int) (*fileData, error) {
	d := &fileData{kind: inBlocks, start: s.out.next(), chunkBits: chunkBits(size)}
	chunk := int64(1) << d.chunkBits
	for done := int64(0); done < size; done += chunk {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		n := min(chunk, size-done)
		if n == chunk {
			hole, err := s.sparse(r, n)
			if err != nil {
				return nil, err
			}
			if hole && d.chunks == nil { // so far they were without a gap
				d.kind = inChunks
				d.chunks = make([]uint32, 0, (size+chunk-1)>>d.chunkBits)
				for at := int64(0); at < done; at += chunk {
					d.chunks = append(d.chunks, d.start+uint32(at>>blockBits))
				}
			}
			if hole {
				d.chunks = append(d.chunks, noBlock)
			} else if d.chunks != nil {
				d.chunks = append(d.chunks, s.out.next()-uint32(chunk>>blockBits))
			}
			continue
		}
		if d.chunks != nil {
			d.chunks = append(d.chunks, s.out.next())
		} else if rest := int(n % blockSize); rest <= min(maxInline, room) && s.inline+rest <= inlineBudget {
			n -= int64(rest)
			d.tail = s.tail(rest)
		}
		if err := s.copy(r, n); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(r, d.tail); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// copy stores n bytes and fills their last block.
func (s *plainStore) copy(r io.Reader, n int64) error {
	for n > 0 {
		room, err := s.out.space(n)
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(r, room); err != nil {
			return err
		}
		s.out.grow(len(room))
		n -= int64(len(room))
	}
	s.out.pad()
	return nil
}

// sparse stores n bytes, whole blocks, unless all of them are zero.
func (s *plainStore) sparse(r io.Reader, n int64) (hole bool, err error) {
	zeros, onlyZeros := int64(0), true
	for n > 0 {
		room, err := s.out.space(min(n, 1<<minChunkBits))
		if err != nil {
			return false, err
		}
		if _, err := io.ReadFull(r, room); err != nil {
			return false, err
		}
		n -= int64(len(room))
		switch {
		case onlyZeros && isZero(room):
			zeros += int64(len(room))
			continue
		case zeros > 0: // they were held back, and room has taken their place
			room = bytes.Clone(room)
			if _, err := io.CopyN(s.out, zeroReader{}, zeros); err != nil {
				return false, err
			}
			if _, err := s.out.Write(room); err != nil {
				return false, err
			}
			zeros = 0
		default:
			s.out.grow(len(room))
		}
		onlyZeros = false
	}
	return onlyZeros, nil
}

// tail returns n bytes that live as long as the conversion.
func (s *plainStore) tail(n int) []byte {
	s.inline += n
	if n > len(s.arena) {
		s.arena = make([]byte, 1<<20)
	}
	t := s.arena[:n:n]
	s.arena = s.arena[n:]
	return t
}

func isZero(b []byte) bool {
	return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// chunkBits is the least that covers size with maxChunks chunks.
func chunkBits(size int64) uint8 {
	b := minChunkBits
	if size > maxChunks<<minChunkBits {
		b = bits.Len64(uint64(size-1) / maxChunks)
	}
	return uint8(b)
}
