package verity

import (
	"bytes"
	"fmt"
	"io"
)

// DigestSize is the size of a block's digest in bytes.
const DigestSize = digestSize

// Leaves compares a tree, all that is behind dataSize bytes of data, with the root hash, and returns the digests of
// the data's blocks, one behind the other: a part of the tree, not a copy.
func Leaves(tree []byte, dataSize int64, rootHex string) ([]byte, error) {
	root, err := begin(TreeAt(tree, dataSize), dataSize, rootHex)
	if err != nil {
		return nil, err
	}
	if n := TotalSize(dataSize) - dataSize; int64(len(tree)) != n {
		return nil, fmt.Errorf("verity: a tree of %d bytes: want %d", len(tree), n)
	}
	want := root[:]
	counts, offsets := levels(dataSize/BlockSize), levelOffsets(dataSize)
	for level := len(counts) - 1; level >= 0; level-- {
		at := offsets[level] - dataSize
		blocks := tree[at : at+counts[level]*BlockSize]
		if err := compare(blocks, want, offsets[level]); err != nil {
			return nil, err
		}
		want = blocks
	}
	return want[:dataSize/BlockSize*digestSize], nil
}

// compare compares hash blocks, which lie at a place in a file, with their digests.
func compare(blocks, digests []byte, at int64) error {
	h := newHasher()
	var sum [digestSize]byte
	for i := range len(blocks) / BlockSize {
		h.sum(sum[:], blocks[i*BlockSize:(i+1)*BlockSize])
		if !bytes.Equal(sum[:], digests[i*digestSize:(i+1)*digestSize]) {
			return &CorruptError{What: "tree", Block: at/BlockSize + int64(i)}
		}
	}
	return nil
}

// EachLeaf calls do with the digest of each block of the data, whose tree is behind it. What do is told has been
// compared with the root hash. Nothing of the data is read, and of the tree a hundredth is in memory.
func EachLeaf(r io.ReaderAt, dataSize int64, rootHex string, do func(block int64, digest []byte)) error {
	root, err := begin(r, dataSize, rootHex)
	if err != nil {
		return err
	}
	want := root[:]
	counts, offsets := levels(dataSize/BlockSize), levelOffsets(dataSize)
	for level := len(counts) - 1; level > 0; level-- {
		blocks := make([]byte, counts[level]*BlockSize)
		if err := readBlock(r, blocks, offsets[level]); err != nil {
			return err
		}
		if err := compare(blocks, want, offsets[level]); err != nil {
			return err
		}
		want = blocks
	}
	if len(counts) == 0 { // the root hash is the digest of the only block
		do(0, want)
		return nil
	}
	const most = 64
	buf := make([]byte, min(most, counts[0])*BlockSize)
	for first := int64(0); first < counts[0]; first += most {
		blocks := buf[:min(most, counts[0]-first)*BlockSize]
		at := offsets[0] + first*BlockSize
		if err := readBlock(r, blocks, at); err != nil {
			return err
		}
		if err := compare(blocks, want[first*digestSize:], at); err != nil {
			return err
		}
		for i := int64(0); i < int64(len(blocks))/digestSize; i++ {
			if block := first*perBlock + i; block < dataSize/BlockSize {
				do(block, blocks[i*digestSize:(i+1)*digestSize])
			}
		}
	}
	return nil
}

// TreeAt shows a tree where it lies in a blob: behind dataSize bytes of data, which are not there.
func TreeAt(tree []byte, dataSize int64) io.ReaderAt { return behind{tree, dataSize} }

// behind is a file whose beginning is not there.
type behind struct {
	b  []byte
	at int64
}

func (f behind) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(f.b).ReadAt(p, off-f.at)
}

// Matches says whether a block of data has the digest.
func Matches(block, digest []byte) bool { return matches(block, digest) }
