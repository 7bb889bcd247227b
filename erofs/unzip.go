package erofs

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Limits of what one pcluster may hold, the kernel's and ours.
const (
	maxPcluster = 1 << 20 // bytes on disk
	maxExtent   = 2 << 20 // bytes of content; Convert makes at most 1 MiB
	maxEntries  = 1 << 30 // of a block map: 4 TiB
)

// decompressor keeps the last extents that were read.
type decompressor struct {
	zstd func() (*zstd.Decoder, error)

	mu   sync.Mutex
	last [8]cached // the most recent first
}

type cached struct {
	extent extentAt
	b      []byte
}

func newDecompressor() *decompressor {
	return &decompressor{zstd: sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxExtent))
	})}
}

// extentAt is an extent as the block map tells it.
type extentAt struct {
	algorithm uint8
	plain     bool
	block     uint32
	blocks    uint32
	offset    int64 // in the file
	length    int   // in the file
}

// mapHeader is what precedes the entries of a block map.
type mapHeader struct {
	packed   bool
	packedAt int64

	advise    uint16
	algorithm uint8
	base      int64 // of the entries in the image
	shape     compactShape
}

func (f *FS) mapHeader(n *inode) (h mapHeader, err error) {
	// Inodes begin at multiples of 32 in the image, so alignment there is alignment here.
	at := roundUp(n.body, mapHeaderSize)
	var b [mapHeaderSize]byte
	if _, err := f.meta.ReadAt(b[:], at); err != nil {
		return h, err
	}
	le := binary.LittleEndian
	if v := le.Uint64(b[:]); v&packedFlag != 0 {
		return mapHeader{packed: true, packedAt: int64(v &^ packedFlag)}, nil
	}
	h.advise, h.algorithm, h.base = le.Uint16(b[4:]), b[6]&15, at+mapHeaderSize
	if h.advise&^adviseKnown != 0 || h.advise&adviseBig1 == 0 || b[7] != 0 ||
		(n.layout() == layoutCompact) != (h.advise&adviseCompact2B != 0) {
		return h, fmt.Errorf("block map %#x, lcluster bits %d: %w", h.advise, b[7], ErrUnsupported)
	}
	if n.layout() == layoutFull {
		h.base += fullGap
	} else {
		h.shape = shapeOf(h.base%32, int((n.size+blockSize-1)>>blockBits))
	}
	return h, nil
}

// compressedAt reads a part of one extent.
func (f *FS) compressedAt(n *inode, p []byte, off int64) (int, error) {
	e := n.last.Load() // small reads go on in the same extent
	if e == nil || off < e.offset || off >= e.offset+int64(e.length) {
		h, err := f.mapHeader(n)
		if err != nil {
			return 0, err
		}
		if h.packed {
			return f.packedAt(n, h, p, off)
		}
		x, err := f.extent(n, h, off)
		if err != nil {
			return 0, err
		}
		e = &x
		n.last.Store(e)
	}
	if e.plain {
		return f.blocksAt(p[:min(len(p), e.length-int(off-e.offset))], e.block, off-e.offset)
	}
	b, err := f.content(*e)
	if err != nil {
		return 0, err
	}
	return copy(p, b[off-e.offset:]), nil
}

func (f *FS) packedAt(n *inode, h mapHeader, p []byte, off int64) (int, error) {
	packed, err := f.inode(f.sb.packedNID)
	if err != nil {
		return 0, err
	}
	if f.sb.packedNID == 0 || packed.mode&modeType != modeRegular || h.packedAt > packed.size-n.size {
		return 0, fmt.Errorf("content at %d of the packed inode: %w", h.packedAt, ErrCorrupt)
	}
	if l := packed.layout(); l == layoutFull || l == layoutCompact {
		if inner, err := f.mapHeader(packed); err != nil || inner.packed {
			return 0, fmt.Errorf("packed inode: %w", ErrCorrupt)
		}
	}
	return f.piece(packed, p[:min(int64(len(p)), packed.size-h.packedAt-off)], h.packedAt+off)
}

// mapWindow is some entries of a block map, side by side: a pack, or as many of a full map.
type mapWindow struct {
	first, count int
	entries      [16]indexEntry
}

// entry returns an entry, which it reads unless the window has it.
func (w *mapWindow) entry(f *FS, n *inode, h mapHeader, i int) (indexEntry, error) {
	if i < w.first || i >= w.first+w.count {
		read := w.readPack
		if n.layout() == layoutFull {
			read = w.readFull
		}
		w.count = 0
		if err := read(f, n, h, i); err != nil {
			return indexEntry{}, err
		}
	}
	x := w.entries[i-w.first]
	if x.kind > entryNonhead {
		return x, fmt.Errorf("block map entry of kind %d: %w", x.kind, ErrUnsupported)
	}
	return x, nil
}

var errUnaligned = fmt.Errorf("extent begins within a block: %w", ErrUnsupported)

func (w *mapWindow) readFull(f *FS, n *inode, h mapHeader, i int) error {
	var b [len(w.entries) * fullEntrySize]byte
	first := i &^ (len(w.entries) - 1)
	count := min(len(w.entries), int((n.size+blockSize-1)>>blockBits)-first)
	if _, err := f.meta.ReadAt(b[:count*fullEntrySize], h.base+int64(first)*fullEntrySize); err != nil {
		return err
	}
	le := binary.LittleEndian
	for k := range count {
		d := b[k*fullEntrySize:]
		x := indexEntry{kind: uint8(min(le.Uint16(d), 0xff))} // there are flags that Convert does not use
		switch {
		case x.kind != entryNonhead:
			if x.block = le.Uint32(d[4:]); le.Uint16(d[2:]) != 0 {
				return errUnaligned
			}
		default:
			x.back, x.ahead = le.Uint16(d[4:]), le.Uint16(d[6:])
			if x.back&blockCountFlag != 0 {
				x.blocks, x.back = x.back&^blockCountFlag, 1
			}
		}
		w.entries[k] = x
	}
	w.first, w.count = first, count
	return nil
}

func (w *mapWindow) readPack(f *FS, _ *inode, h mapHeader, i int) error {
	first, count, at := h.shape.pack(i)
	size, bits := 8, 16
	if count == 16 {
		size, bits = 32, 14
	}
	var b [32]byte
	if _, err := f.meta.ReadAt(b[:size], h.base+int64(at)); err != nil {
		return err
	}
	base := binary.LittleEndian.Uint32(b[size-4:])
	pack := w.entries[:count]
	for k := range pack {
		v := uint32(b[k*bits/8]) | uint32(b[k*bits/8+1])<<8 | uint32(b[k*bits/8+2])<<16
		v >>= k * bits % 8
		x := indexEntry{kind: uint8(v >> compactValueBits & 3)}
		value := uint16(v & (1<<compactValueBits - 1))
		switch {
		case x.kind != entryNonhead:
			if value != 0 {
				return errUnaligned
			}
			x.block = base + packBlocks(pack, k)
		case value&blockCountFlag != 0:
			x.blocks, x.back = value&^blockCountFlag, 1
		case k == count-1: // it tells the way ahead; the way back follows from the one before
			x.back, x.ahead = 1, value
			if k > 0 && pack[k-1].kind == entryNonhead {
				x.back = pack[k-1].back + 1
			}
		default:
			x.back = value
		}
		pack[k] = x
	}
	w.first, w.count = first, count
	return nil
}

// extent returns the extent that has the byte at off.
func (f *FS) extent(n *inode, h mapHeader, off int64) (e extentAt, err error) {
	if n.size>>blockBits > maxEntries {
		return e, fmt.Errorf("compressed file of %d bytes: %w", n.size, ErrUnsupported)
	}
	end := int((n.size + blockSize - 1) >> blockBits) // number of entries
	i := int(off >> blockBits)
	var w mapWindow
	x, err := w.entry(f, n, h, i)
	for hops := 0; err == nil && x.kind == entryNonhead; hops++ {
		if i -= int(x.back); x.back == 0 || i < 0 || hops > maxExtent>>blockBits {
			return e, fmt.Errorf("block map: no head before %d: %w", off, ErrCorrupt)
		}
		x, err = w.entry(f, n, h, i)
	}
	if err != nil {
		return e, err
	}
	e = extentAt{
		algorithm: h.algorithm,
		plain:     x.kind == entryPlain,
		block:     x.block,
		blocks:    1,
		offset:    int64(i) << blockBits,
	}
	next := i + 1
	for ; next < end; next++ {
		if next-i > maxExtent>>blockBits {
			return e, fmt.Errorf("extent at %d is longer than %d bytes: %w", e.offset, maxExtent, ErrCorrupt)
		}
		x, err := w.entry(f, n, h, next)
		if err != nil {
			return e, err
		}
		if x.kind != entryNonhead {
			break
		}
		if x.blocks > 0 && next == i+1 {
			e.blocks = uint32(x.blocks)
		}
	}
	e.length = int(min(int64(next)<<blockBits, n.size) - e.offset)
	if e.plain && e.length > blockSize || e.blocks > maxPcluster>>blockBits || off-e.offset >= int64(e.length) {
		return e, fmt.Errorf("extent at %d: %d bytes in %d blocks: %w", e.offset, e.length, e.blocks, ErrCorrupt)
	}
	return e, nil
}

// content returns an extent's bytes, which must not be changed.
func (f *FS) content(e extentAt) ([]byte, error) {
	z := f.z
	key := e
	key.offset = 0 // files may share it
	z.mu.Lock()
	for i, c := range z.last {
		if c.b != nil && c.extent == key {
			copy(z.last[1:i+1], z.last[:i])
			z.last[0] = c
			z.mu.Unlock()
			return c.b, nil
		}
	}
	z.mu.Unlock()
	b, err := f.decompress(e)
	if err != nil {
		return nil, fmt.Errorf("extent at %d, blocks %d+%d: %w", e.offset, e.block, e.blocks, err)
	}
	z.mu.Lock()
	copy(z.last[1:], z.last[:])
	z.last[0] = cached{key, b}
	z.mu.Unlock()
	return b, nil
}

func (f *FS) decompress(e extentAt) ([]byte, error) {
	raw := make([]byte, e.blocks<<blockBits)
	if _, err := f.blocksAt(raw, e.block, 0); err != nil {
		return nil, err
	}
	for len(raw) > 0 && raw[0] == 0 {
		raw = raw[1:]
	}
	out := make([]byte, 0, e.length)
	var err error
	switch e.algorithm {
	case algorithmZstd:
		var d *zstd.Decoder
		if d, err = f.z.zstd(); err == nil {
			out, err = d.DecodeAll(raw, out)
		}
	case algorithmLZ4:
		var n int
		n, err = lz4.UncompressBlock(raw, out[:e.length])
		out = out[:max(0, n)]
	default:
		return nil, fmt.Errorf("algorithm %d: %w", e.algorithm, ErrUnsupported)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(out) != e.length {
		return nil, fmt.Errorf("%d bytes, want %d: %w", len(out), e.length, ErrCorrupt)
	}
	return out, nil
}
