package verity

import (
	"bytes"
	"fmt"
	"io"
)

// DigestSize is the size of a block's digest in bytes.
const DigestSize = digestSize

// Leaves reads the tree behind dataSize bytes of data, compares all of it with the root hash, and returns the digests
// of the data's blocks, one behind the other. Nothing of the data is read.
func Leaves(r io.ReaderAt, dataSize int64, rootHex string) ([]byte, error) {
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
	want := root[:]
	counts, offsets := levels(dataSize/BlockSize), levelOffsets(dataSize)
	h := newHasher()
	var sum [digestSize]byte
	for level := len(counts) - 1; level >= 0; level-- {
		blocks := make([]byte, counts[level]*BlockSize)
		if err := readBlock(r, blocks, offsets[level]); err != nil {
			return nil, err
		}
		for i := range counts[level] {
			h.sum(sum[:], blocks[i*BlockSize:(i+1)*BlockSize])
			if !bytes.Equal(sum[:], want[i*digestSize:(i+1)*digestSize]) {
				return nil, &CorruptError{What: "tree", Block: offsets[level]/BlockSize + i}
			}
		}
		want = blocks
	}
	n := dataSize / BlockSize * digestSize
	if int64(len(want)) < n {
		return nil, fmt.Errorf("verity: the tree has %d digests, want %d", len(want)/digestSize, n/digestSize)
	}
	return want[:n], nil
}

// Matches says whether a block of data has the digest.
func Matches(block, digest []byte) bool { return matches(block, digest) }
