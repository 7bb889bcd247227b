package erofs

// fileData says where a regular file's content is.
type fileData struct {
	kind      dataKind
	chunkBits uint8 // inChunks: log2 of a chunk's bytes
	algorithm uint8 // inExtents

	start    uint32   // inBlocks: the first block
	tail     []byte   // inBlocks: the end of the file, less than a block, kept with the inode
	chunks   []uint32 // inChunks: the first block of each; noBlock is a hole
	extents  []extent // inExtents
	packedAt int64    // inPacked: offset in the packed inode
}

type dataKind uint8

const (
	inBlocks  dataKind = iota + 1 // one after the other
	inChunks                      // chunks of blocks, with holes
	inExtents                     // compressed
	inPacked                      // in the packed inode
)

// settle is called when all content is stored. It finds files none of which was worth
// compressing: they are read faster as blocks.
func (d *fileData) settle() {
	if d.kind != inExtents {
		return
	}
	d.start = d.extents[0].block
	next := d.start
	for _, e := range d.extents {
		if !e.plain || e.block != next {
			return
		}
		next += uint32(e.blocks)
	}
	d.kind, d.extents = inBlocks, nil
}

// blocks is the number of blocks that a compressed file has.
func (d *fileData) blocks() uint32 {
	var n uint32
	for _, e := range d.extents {
		n += uint32(e.blocks)
	}
	return n
}

// features are those that a reader must know for this file.
func (d *fileData) features() uint32 {
	switch d.kind {
	case inChunks:
		return incompatChunked
	case inExtents, inPacked: // pclusters may be shared, which is the same feature as fragments
		return incompatZeroPadding | incompatComprCfgs | incompatFragments
	}
	return 0
}
