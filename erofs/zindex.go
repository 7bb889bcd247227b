package erofs

import "encoding/binary"

// A compressed file's block map, after its inode and attributes, at a multiple of 8:
//
//	 8 bytes  header: 0 (4), advise (2), algorithm (1), log2 of lcluster/block (1)
//	 8 bytes  (full only) unused
//	entries   one for each lcluster, the file's blocks of 4096 bytes
//
// An entry is the HEAD of an extent, or a NONHEAD that says how many lclusters ago the
// head was; the first NONHEAD says how many blocks the pcluster has. A PLAIN head is one
// block, not compressed. Kairos's extents begin with an lcluster.
//
// Full entries are 8 bytes: type (2), offset of the extent in the lcluster (2), block (4)
// or the distances to the head and to the next head (2+2). Compact entries are 14 or 16
// bits, type and 12 bits of value, in packs: two entries and a block number in 8 bytes,
// up to the next multiple of 32 bytes and at the end; between them sixteen and a block
// number in 32 bytes. An entry's block follows from the pack's block and the pclusters
// before it in the pack, so within a pack pclusters must be in sequence.
//
// A file in the packed inode has the header alone: its offset there, and the highest bit.
const (
	entryPlain   = 0
	entryHead    = 1
	entryNonhead = 2

	adviseCompact2B  = 0x01
	adviseBig1       = 0x02
	adviseBig2       = 0x04
	adviseKnown      = adviseCompact2B | adviseBig1 | adviseBig2
	packedFlag       = 1 << 63
	mapHeaderSize    = 8
	fullGap          = 8
	fullEntrySize    = 8
	blockCountFlag   = 1 << 11
	compactValueBits = 12
)

// indexEntry is an entry of the block map.
type indexEntry struct {
	kind   uint8
	block  uint32 // of a head
	blocks uint16 // of the first NONHEAD
	back   uint16 // of a NONHEAD: lclusters since the head
	ahead  uint16 // of a NONHEAD: lclusters to the next head
}

// entries calls yield with the entries of the block map.
func entries(extents []extent, yield func(indexEntry)) {
	for _, e := range extents {
		n := uint16(blocksOf(int(e.length)))
		if e.plain {
			for i := range n {
				yield(indexEntry{kind: entryPlain, block: e.block + uint32(i)})
			}
			continue
		}
		yield(indexEntry{kind: entryHead, block: e.block})
		for i := uint16(1); i < n; i++ {
			x := indexEntry{kind: entryNonhead, back: i, ahead: n - i}
			if i == 1 {
				x.blocks = e.blocks
			}
			yield(x)
		}
	}
}

// value is the 12 bits of a compact entry, last in its pack or not.
func (x indexEntry) value(last bool) uint16 {
	switch {
	case x.kind != entryNonhead:
		return 0
	case x.blocks > 0:
		return x.blocks | blockCountFlag
	case last:
		return min(x.ahead, blockCountFlag-1)
	}
	return x.back
}

// appendFull appends a full entry.
func (x indexEntry) appendFull(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint16(b, uint16(x.kind))
	b = le.AppendUint16(b, 0)
	switch {
	case x.kind != entryNonhead:
		return le.AppendUint32(b, x.block)
	case x.blocks > 0:
		b = le.AppendUint16(b, x.blocks|blockCountFlag)
	default:
		b = le.AppendUint16(b, x.back)
	}
	return le.AppendUint16(b, x.ahead)
}

// compactShape says where the packs of a compact map are. base is where its entries
// begin, counted from the inode, and n the number of entries.
type compactShape struct{ initial, middle, n int }

func shapeOf(base int64, n int) compactShape {
	initial := int(32-base%32) / 4 & 7
	if initial >= n {
		return compactShape{initial: n, n: n}
	}
	return compactShape{initial, (n - initial) &^ 15, n}
}

func (s compactShape) size() int {
	if s.middle == 0 {
		return (s.n + 1) / 2 * 8
	}
	return s.initial*4 + s.middle*2 + (s.n-s.initial-s.middle+1)/2*8
}

// pack returns the pack with entry i: its first entry, how many entries it has room for
// and where it begins.
func (s compactShape) pack(i int) (first, count, at int) {
	switch {
	case i < s.initial:
		return i &^ 1, 2, i &^ 1 * 4
	case i < s.initial+s.middle:
		first = s.initial + (i-s.initial)&^15
		return first, 16, s.initial*4 + (first-s.initial)*2
	}
	rest := s.initial + s.middle
	first = rest + (i-rest)&^1
	return first, 2, s.initial*4 + s.middle*2 + (first-rest)*4
}

// packBlocks returns, for the head at i of a pack, how many blocks the pack's pclusters
// before it have, as the kernel counts them.
func packBlocks(pack []indexEntry, i int) uint32 {
	var blocks uint32
	for i > 0 {
		i--
		x := pack[i]
		switch {
		case x.kind != entryNonhead:
			blocks++
		case x.blocks > 0:
			blocks += uint32(x.blocks)
			i--
		default:
			i -= int(x.back) - 2
		}
	}
	return blocks
}

// packBase returns the block number that a pack has to have, and whether one fits all of
// its heads.
func packBase(pack []indexEntry) (base uint32, ok bool) {
	found := false
	for i, x := range pack {
		if x.kind == entryNonhead {
			continue
		}
		b := x.block - packBlocks(pack, i)
		if found && b != base {
			return 0, false
		}
		base, found = b, true
	}
	return base, true
}

// appendPack appends a pack with room for count entries.
func appendPack(b []byte, pack []indexEntry, count int) []byte {
	size, bits := 8, 16
	if count == 16 {
		size, bits = 32, 14
	}
	start := len(b)
	b = append(b, make([]byte, size)...)
	out := b[start:]
	for i, x := range pack {
		v := uint32(x.value(i == count-1)) | uint32(x.kind)<<compactValueBits
		at := i * bits
		v <<= at % 8
		out[at/8] |= byte(v)
		out[at/8+1] |= byte(v >> 8)
		out[at/8+2] |= byte(v >> 16)
	}
	base, _ := packBase(pack)
	binary.LittleEndian.PutUint32(out[size-4:], base)
	return b
}

// packs calls yield with the packs of a compact map.
func packs(extents []extent, s compactShape, yield func(pack []indexEntry, count int)) {
	pack := make([]indexEntry, 0, 16)
	i := 0
	entries(extents, func(x indexEntry) {
		pack = append(pack, x)
		first, count, _ := s.pack(i)
		i++
		if i == first+count || i == s.n {
			yield(pack, count)
			pack = pack[:0]
		}
	})
}

// compactFits says whether a file's extents can be told by a compact map.
func compactFits(extents []extent, s compactShape) bool {
	fits := true
	packs(extents, s, func(pack []indexEntry, _ int) {
		_, ok := packBase(pack)
		fits = fits && ok
	})
	return fits
}
