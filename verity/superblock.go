package verity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// The parameters, see the package documentation.
const (
	BlockSize = 4096
	Algorithm = "sha256"
	// Salt is the salt in hex, as a dm-verity table takes it.
	Salt = "0000000000000000000000000000000000000000000000000000000000000000"

	digestSize     = 32
	perBlock       = BlockSize / digestSize
	superblockSize = 512
	saltSize       = 32
)

// Superblock is the header that precedes a tree. What it does not hold is fixed.
//
//	0    8  "verity\0\0"
//	8    4  version 1
//	12   4  hash type 1
//	16  16  UUID
//	32  32  "sha256", zeros
//	64   4  data block size
//	68   4  hash block size
//	72   8  number of data blocks
//	80   2  salt size
//	88 256  salt
type Superblock struct {
	UUID       [16]byte
	DataBlocks uint64
}

var magic = []byte("verity\x00\x00")

// Marshal returns the superblock's 512 bytes.
func (s Superblock) Marshal() []byte {
	b := make([]byte, superblockSize)
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[8:], 1)
	le.PutUint32(b[12:], 1)
	copy(b[16:], s.UUID[:])
	copy(b[32:], Algorithm)
	le.PutUint32(b[64:], BlockSize)
	le.PutUint32(b[68:], BlockSize)
	le.PutUint64(b[72:], s.DataBlocks)
	le.PutUint16(b[80:], saltSize)
	return b
}

// ParseSuperblock reads a superblock, and refuses one with other parameters than ours.
func ParseSuperblock(b []byte) (Superblock, error) {
	var s Superblock
	if len(b) < superblockSize {
		return s, fmt.Errorf("verity superblock: %d bytes, want %d", len(b), superblockSize)
	}
	b = b[:superblockSize]
	if !bytes.HasPrefix(b, magic) {
		return s, errors.New("verity superblock: no signature")
	}
	copy(s.UUID[:], b[16:])
	s.DataBlocks = binary.LittleEndian.Uint64(b[72:])
	if !bytes.Equal(b, s.Marshal()) {
		return Superblock{}, errors.New(
			"verity superblock: not version 1, sha256, blocks of 4096 and a salt of 32 zeros",
		)
	}
	return s, nil
}

// uuid derives the UUID from the root hash, so that equal data gives equal bytes: a
// version 8 (free form) UUID of RFC 9562.
func uuid(root [digestSize]byte) (u [16]byte) {
	copy(u[:], root[:])
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}
