package erofs

import "encoding/binary"

// fitsCompact says whether the 32-byte inode has room for n. Its time is the image's.
func (n *node) fitsCompact(sb *superblock) bool {
	return n.mtime == sb.buildTime && n.nsec == sb.buildNsec && n.uid <= 0xffff && n.gid <= 0xffff &&
		n.nlink <= 0xffff && n.size <= 0xffffffff
}

// headSize is the size of the inode with its extended attributes.
func (n *node) headSize() int {
	if n.compact {
		return inodeCompactSize + len(n.xattrs)
	}
	return inodeExtendedSize + len(n.xattrs)
}

// indexSize is the size of the block map between the head and the inline content.
func (n *node) indexSize() int {
	if n.data == nil {
		return 0
	}
	gap := int(roundUp(int64(n.headSize()), mapHeaderSize)) - n.headSize()
	switch n.data.kind {
	case inChunks:
		return 4 * len(n.data.chunks)
	case inPacked:
		return gap + mapHeaderSize
	case inExtents:
		if n.layout() == layoutCompact {
			return gap + mapHeaderSize + n.shape().size()
		}
		return gap + mapHeaderSize + fullGap + fullEntrySize*int((n.size+blockSize-1)>>blockBits)
	}
	return 0
}

// shape is that of the compact block map.
func (n *node) shape() compactShape {
	return shapeOf(roundUp(int64(n.headSize()), mapHeaderSize)+mapHeaderSize, int((n.size+blockSize-1)>>blockBits))
}

// contentBlocks is the number of blocks that a directory or a symbolic link has after
// the inodes.
func (n *node) contentBlocks() uint32 {
	if !n.isDir() && !n.isSymlink() {
		return 0
	}
	return uint32((n.size - int64(n.tail) + blockSize - 1) >> blockBits)
}

func (n *node) layout() uint16 {
	if n.data != nil {
		switch n.data.kind {
		case inChunks:
			return layoutChunked
		case inPacked:
			return layoutCompact
		case inExtents:
			if n.fullMap {
				return layoutFull
			}
			return layoutCompact
		}
	}
	if n.tail > 0 {
		return layoutInline
	}
	return layoutPlain
}

// where is the inode's i_u: the first block, the number of blocks, the chunks' size or
// the device.
func (n *node) where() uint32 {
	switch {
	case n.isDir() || n.isSymlink():
		return n.start
	case n.data == nil:
		return n.rdev
	}
	switch n.data.kind {
	case inBlocks:
		return n.data.start
	case inChunks:
		return uint32(n.data.chunkBits - blockBits)
	}
	return n.data.blocks()
}

// appendInode appends the inode with all that belongs to it, in the order of its
// record: inode, extended attributes, block map, inline content.
func (n *node) appendInode(b []byte, ino uint32) []byte {
	le := binary.LittleEndian
	format := n.layout() << 1
	if !n.compact {
		format |= 1
	}
	b = le.AppendUint16(b, format)
	b = le.AppendUint16(b, uint16(xattrCount(len(n.xattrs))))
	b = le.AppendUint16(b, n.mode)
	if n.compact {
		b = le.AppendUint16(b, uint16(n.nlink))
		b = le.AppendUint32(b, uint32(n.size))
		b = le.AppendUint32(b, 0)
		b = le.AppendUint32(b, n.where())
		b = le.AppendUint32(b, ino)
		b = le.AppendUint16(b, uint16(n.uid))
		b = le.AppendUint16(b, uint16(n.gid))
		b = le.AppendUint32(b, 0)
	} else {
		b = le.AppendUint16(b, 0)
		b = le.AppendUint64(b, uint64(n.size))
		b = le.AppendUint32(b, n.where())
		b = le.AppendUint32(b, ino)
		b = le.AppendUint32(b, n.uid)
		b = le.AppendUint32(b, n.gid)
		b = le.AppendUint64(b, uint64(n.mtime))
		b = le.AppendUint32(b, n.nsec)
		b = le.AppendUint32(b, n.nlink)
		b = append(b, zeroBlock[:16]...)
	}
	b = append(b, n.xattrs...)
	if n.data != nil {
		b = n.appendMap(b)
	}
	switch {
	case n.tail == 0:
	case n.isDir():
		b = appendDirents(b, lastDirents(n.dirents))
	case n.isSymlink():
		b = append(b, n.target...)
	default:
		b = append(b, n.data.tail...)
	}
	return b
}

// appendMap appends a file's block map.
func (n *node) appendMap(b []byte) []byte {
	le := binary.LittleEndian
	if n.data.kind == inChunks {
		for _, c := range n.data.chunks {
			b = le.AppendUint32(b, c)
		}
	}
	if n.data.kind != inPacked && n.data.kind != inExtents {
		return b
	}
	for len(b)%mapHeaderSize != 0 { // b began with the inode
		b = append(b, 0)
	}
	if n.data.kind == inPacked {
		return le.AppendUint64(b, uint64(n.data.packedAt)|packedFlag)
	}
	advise := uint16(adviseBig1)
	if !n.fullMap {
		advise |= adviseBig2 | adviseCompact2B // both or none, where the map is compact
	}
	b = le.AppendUint32(b, 0)
	b = le.AppendUint16(b, advise)
	b = append(b, n.data.algorithm, 0)
	if n.fullMap {
		b = append(b, zeroBlock[:fullGap]...)
		entries(n.data.extents, func(x indexEntry) { b = x.appendFull(b) })
		return b
	}
	packs(n.data.extents, n.shape(), func(pack []indexEntry, count int) { b = appendPack(b, pack, count) })
	return b
}
