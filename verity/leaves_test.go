package verity

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// grown is a file in memory.
type grown struct{ b []byte }

func (g *grown) WriteAt(p []byte, off int64) (int, error) {
	if n := int(off) + len(p); n > len(g.b) {
		g.b = append(g.b, make([]byte, n-len(g.b))...)
	}
	return copy(g.b[off:], p), nil
}

// Leaves and EachLeaf say the digests of the data's blocks, whatever levels the tree has, and find each block of a
// tree that is damaged.
func TestLeaves(t *testing.T) {
	for _, blocks := range []int64{1, 2, 128, 129, 128*128 + 1} {
		t.Run(fmt.Sprint(blocks), func(t *testing.T) {
			size := blocks * BlockSize
			var f grown
			w := NewWriter(&f)
			data := make([]byte, size)
			for i := range blocks {
				data[i*BlockSize], data[i*BlockSize+1], data[i*BlockSize+2] = byte(i), byte(i>>8), 1
			}
			if _, err := w.WriteAt(data, 0); err != nil {
				t.Fatal(err)
			}
			root, _, err := w.Finish(size)
			if err != nil {
				t.Fatal(err)
			}
			leaves, err := Leaves(f.b[size:], size, root)
			if err != nil || int64(len(leaves)) != blocks*DigestSize {
				t.Fatalf("%d bytes, %v", len(leaves), err)
			}
			if blocks > 1 && &leaves[0] != &f.b[levelOffsets(size)[0]] {
				t.Error("the leaves are a copy")
			}
			next := int64(0)
			err = EachLeaf(bytes.NewReader(f.b), size, root, func(block int64, digest []byte) {
				at := block * BlockSize
				if block != next || !bytes.Equal(digest, leaves[block*DigestSize:(block+1)*DigestSize]) ||
					!Matches(data[at:at+BlockSize], digest) {
					t.Errorf("block %d has the digest %x", block, digest)
				}
				next++
			})
			if err != nil || next != blocks {
				t.Errorf("%d of %d blocks, %v", next, blocks, err)
			}
			for at := size; at < min(int64(len(f.b)), size+4*BlockSize); at += BlockSize {
				f.b[at] ^= 1
				var corrupt *CorruptError
				if _, err := Leaves(f.b[size:], size, root); !errors.As(err, &corrupt) {
					t.Errorf("damage at %d: %v", at, err)
				}
				err := EachLeaf(bytes.NewReader(f.b), size, root, func(int64, []byte) {})
				if !errors.As(err, &corrupt) {
					t.Errorf("damage at %d: %v", at, err)
				}
				f.b[at] ^= 1
			}
			if _, err := Leaves(f.b[size:len(f.b)-1], size, root); err == nil {
				t.Error("a truncated tree was accepted")
			}
		})
	}
}
