package erofs

import (
	"encoding/binary"
	"hash/crc32"
)

// Sizes of the on-disk format. Block size is the page size of every architecture that
// Kairos boots.
const (
	blockBits = 12
	blockSize = 1 << blockBits
	nidUnit   = 32 // an inode's address (nid) counts these from the metadata area's start

	superOffset = 1024
	superMagic  = 0xE0F5E1E2
	superSize   = 128

	inodeCompactSize  = 32
	inodeExtendedSize = 64
	direntSize        = 12
	maxName           = 255
	maxSymlink        = 4095 // PATH_MAX less its NUL
)

// Superblock features.
const (
	compatChecksum = 0x1
	compatMtime    = 0x2

	incompatZeroPadding = 0x1  // compressed data is right-aligned in its pcluster
	incompatComprCfgs   = 0x2  // compression records follow the superblock; also: big pclusters
	incompatChunked     = 0x4  // files in chunks, which may be holes
	incompatFragments   = 0x20 // file ends in the packed inode; also: shared pclusters

	incompatKnown = incompatZeroPadding | incompatComprCfgs | incompatChunked | incompatFragments
)

// Data layouts of an inode.
const (
	layoutPlain   = 0 // whole blocks
	layoutFull    = 1 // compressed, 8-byte indexes
	layoutInline  = 2 // whole blocks, the rest right after the inode
	layoutCompact = 3 // compressed, 4- and 2-byte indexes
	layoutChunked = 4 // block address per chunk
)

const noBlock = 0xFFFFFFFF // address of a hole

// File types of a directory entry.
const (
	ftRegular = iota + 1
	ftDir
	ftChar
	ftBlock
	ftFifo
	ftSocket
	ftSymlink
)

// File types of a mode, as in <linux/stat.h>; the host's own may differ.
const (
	modeType    = 0o170000
	modeSocket  = 0o140000
	modeSymlink = 0o120000
	modeRegular = 0o100000
	modeBlock   = 0o060000
	modeDir     = 0o040000
	modeChar    = 0o020000
	modeFifo    = 0o010000
)

func fileType(mode uint16) byte {
	switch mode & modeType {
	case modeRegular:
		return ftRegular
	case modeDir:
		return ftDir
	case modeChar:
		return ftChar
	case modeBlock:
		return ftBlock
	case modeFifo:
		return ftFifo
	case modeSocket:
		return ftSocket
	case modeSymlink:
		return ftSymlink
	}
	return 0
}

// superblock holds the fields of struct erofs_super_block that Kairos uses.
type superblock struct {
	compat, incompat uint32
	rootNID          uint16
	inodes           uint64
	buildTime        int64
	buildNsec        uint32
	blocks           uint32
	metaBlock        uint32
	xattrBlock       uint32
	uuid             [16]byte
	algorithms       uint16 // bits
	packedNID        uint64

	record []byte // of the algorithm; there is one at most
	packed *node  // that packedNID will be of
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// block returns the image's first block: the superblock at byte 1024 and, right after
// it, the record of the compression algorithm: its size (2) and content.
func (s *superblock) block() []byte {
	b := make([]byte, blockSize)
	d := b[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(d[0:], superMagic)
	le.PutUint32(d[8:], s.compat)
	d[12] = blockBits
	le.PutUint16(d[14:], s.rootNID)
	le.PutUint64(d[16:], s.inodes)
	le.PutUint64(d[24:], uint64(s.buildTime))
	le.PutUint32(d[32:], s.buildNsec)
	le.PutUint32(d[36:], s.blocks)
	le.PutUint32(d[40:], s.metaBlock)
	le.PutUint32(d[44:], s.xattrBlock)
	copy(d[48:64], s.uuid[:])
	le.PutUint32(d[80:], s.incompat)
	if s.incompat&incompatComprCfgs != 0 {
		le.PutUint16(d[84:], s.algorithms)
		le.PutUint16(d[superSize:], uint16(len(s.record)))
		copy(d[superSize+2:], s.record)
	}
	le.PutUint64(d[96:], s.packedNID)
	le.PutUint32(d[4:], superChecksum(d))
	return b
}

// superChecksum is the CRC-32C of the first block from the superblock on, the checksum's
// own field as zero, without the final inversion.
func superChecksum(d []byte) uint32 {
	crc := crc32.Update(0, castagnoli, d[:4])
	crc = crc32.Update(crc, castagnoli, make([]byte, 4))
	return ^crc32.Update(crc, castagnoli, d[8:])
}

// encodeDev returns a device number in the kernel's 32-bit form: 12 bits of major, 20 of
// minor.
func encodeDev(major, minor int64) (dev uint32, ok bool) {
	if major < 0 || major > 0xfff || minor < 0 || minor > 0xfffff {
		return 0, false
	}
	return uint32(minor&0xff | major<<8 | (minor&^0xff)<<12), true
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
