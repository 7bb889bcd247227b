package fsck

import (
	"encoding/binary"
	"hash/crc32"
	"io"
)

var le = binary.LittleEndian

// Places in a superblock, of 1024 bytes (Linux, Documentation/filesystems/ext4, "Super Block").
const (
	superSize     = 1024
	superAt       = 1024 // of the first one; copies are at the beginning of their groups
	superMagic    = 0x38
	superState    = 0x3a
	superGroup    = 0x5a
	superROCompat = 0x64
	superLabel    = 0x78
	superChecksum = 0x3fc

	magic           = 0xef53
	stateErrors     = 2     // the kernel has found errors
	rocompatSums    = 0x400 // metadata_csum
	blockSize       = 4096  // of all file systems that are ours
	blocksPerGroup  = 8 * blockSize
	mostSuperblocks = 12 // copies that are looked for: the 12th is at 42 GiB
)

// condition is what a file system's superblock says of it.
type condition int

const (
	sound   condition = iota
	flagged           // the kernel has found errors in it
	gone              // there is no valid superblock at its place
)

// look reads the condition of a file system with a label.
func look(r io.ReaderAt, label string) condition {
	b, ok := super(r, superAt, 0, label)
	switch {
	case !ok:
		return gone
	case le.Uint16(b[superState:])&stateErrors != 0:
		return flagged
	}
	return sound
}

// copies returns the blocks of the valid copies of the superblock, the first one first.
func copies(r io.ReaderAt, label string) (blocks []int64) {
	for _, g := range copyGroups() {
		if _, ok := super(r, g*blocksPerGroup*blockSize, uint16(g), label); ok {
			blocks = append(blocks, g*blocksPerGroup)
		}
	}
	return blocks
}

// copyGroups are the groups that have copies (sparse_super): 1 and the powers of 3, 5 and 7.
func copyGroups() []int64 {
	groups, next := []int64{1}, [3]int64{3, 5, 7}
	for len(groups) < mostSuperblocks {
		least := 0
		for i := range next {
			if next[i] < next[least] {
				least = i
			}
		}
		groups = append(groups, next[least])
		next[least] *= [3]int64{3, 5, 7}[least]
	}
	return groups
}

// super reads a group's superblock, and says whether it is valid and the label's.
func super(r io.ReaderAt, at int64, group uint16, label string) ([]byte, bool) {
	b := make([]byte, superSize)
	if n, _ := r.ReadAt(b, at); n < len(b) {
		return nil, false
	}
	name := make([]byte, 16)
	copy(name, label)
	if le.Uint16(b[superMagic:]) != magic || le.Uint16(b[superGroup:]) != group ||
		string(b[superLabel:superLabel+16]) != string(name) {
		return nil, false
	}
	if le.Uint32(b[superROCompat:])&rocompatSums != 0 &&
		le.Uint32(b[superChecksum:]) != ^crc32.Checksum(b[:superChecksum], crc32.MakeTable(crc32.Castagnoli)) {
		return nil, false
	}
	return b, true
}
