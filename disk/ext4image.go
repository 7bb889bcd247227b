package disk

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/kairos-buildkit/kairos/disk/sparse"
)

const modeDir = fs.ModeDir

var be = binary.BigEndian

// crc32c is ext4's: without the complement before and after.
func crc32c(crc uint32, b []byte) uint32 {
	return ^crc32.Update(^crc, crc32.MakeTable(crc32.Castagnoli), b)
}

func (v *ext4Volume) image() (*sparse.Image, error) {
	m := &sparse.Image{Size: v.Size}
	descriptors := v.descriptors()
	for g := range v.groups {
		if v.hasSuper(g) {
			at := g * ext4Group * ext4Block
			if g == 0 {
				m.AddZero(0, 1024)
				m.AddBytes(1024, "superblock", v.superblock(g))
				m.AddZero(2048, ext4Block-2048)
			} else {
				m.AddBytes(at, "superblock's copy", append(v.superblock(g), make([]byte, ext4Block-1024)...))
			}
			m.AddBytes(at+ext4Block, "group descriptors", descriptors)
		}
		m.Add(v.blockBitmapAt(g)*ext4Block, sparse.Extent{
			Size: ext4Block, Name: "block bitmap", Open: func() (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(v.blockBitmap(g))), nil
			}})
		if v.inodesIn(g) > 0 {
			m.AddBytes(v.inodeBitmapAt(g)*ext4Block, "inode bitmap", v.inodeBitmap(g))
			m.AddBytes(v.inodeTableAt(g)*ext4Block, "inodes", v.inodeTable(g))
			used := v.inodesIn(g) * ext4InodeSize
			m.AddZero(v.inodeTableAt(g)*ext4Block+used, v.itable*ext4Block-used)
		}
	}
	v.addFolder(m, v.rootDir)
	v.addTree(m, v.rootDir)
	for _, i := range v.nodes {
		v.addTree(m, i)
		if i.IsDir() {
			v.addFolder(m, i)
			continue
		}
		v.addFile(m, i)
	}
	v.addTree(m, v.journal)
	v.addJournal(m)
	return m, nil
}

// inodesIn counts the inodes in use of a group, those of the file system itself included.
func (v *ext4Volume) inodesIn(g int64) int64 {
	return max(0, min(int64(ext4FirstInode-1+len(v.nodes))-g*v.inodes, v.inodes))
}

func (v *ext4Volume) inode(number int64) *ext4Inode {
	switch {
	case number == ext4RootInode:
		return v.rootDir
	case number == ext4Journal:
		return v.journal
	case number >= ext4FirstInode:
		return v.nodes[number-ext4FirstInode]
	}
	return nil
}

func (v *ext4Volume) dirsIn(g int64) (count int64) {
	for k := range v.inodesIn(g) {
		if i := v.inode(g*v.inodes + k + 1); i != nil && i.IsDir() {
			count++
		}
	}
	return count
}

func (v *ext4Volume) superblock(g int64) []byte {
	b := make([]byte, 1024)
	total := v.groups * v.inodes
	now := uint32(max(v.Time.Unix(), 0))
	freeInodes := total - int64(ext4FirstInode-1+len(v.nodes))
	le.PutUint32(b[0x00:], uint32(total))
	le.PutUint32(b[0x04:], uint32(v.blocks))
	le.PutUint32(b[0x0c:], uint32(v.free()))
	le.PutUint32(b[0x10:], uint32(freeInodes))
	le.PutUint32(b[0x18:], 2) // block size: 1024 << 2
	le.PutUint32(b[0x1c:], 2)
	le.PutUint32(b[0x20:], ext4Group)
	le.PutUint32(b[0x24:], ext4Group)
	le.PutUint32(b[0x28:], uint32(v.inodes))
	le.PutUint32(b[0x30:], now)    // written
	le.PutUint16(b[0x36:], 0xffff) // no check after a number of mounts
	le.PutUint16(b[0x38:], 0xef53)
	le.PutUint16(b[0x3a:], 1)   // clean
	le.PutUint16(b[0x3c:], 1)   // on errors: continue
	le.PutUint32(b[0x40:], now) // checked
	le.PutUint32(b[0x4c:], 1)   // revision with the fields below
	le.PutUint32(b[0x54:], ext4FirstInode)
	le.PutUint16(b[0x58:], ext4InodeSize)
	le.PutUint16(b[0x5a:], uint16(g))
	le.PutUint32(b[0x5c:], 0x4|0x8|0x20) // journal, xattrs, folder index
	// File types in folders, extents, 64 bit, flex_bg, and a seed of the checksums that stays when the UUID changes.
	le.PutUint32(b[0x60:], 0x2|0x40|0x80|0x200|0x2000)
	le.PutUint32(
		b[0x64:],
		0x1|0x2|0x8|0x20|0x40|0x400,
	) // sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum
	copy(b[0x68:], v.UUID[:])
	copy(b[0x78:], v.Label)
	le.PutUint32(b[0xe0:], ext4Journal)
	hashSeed := derive(v.UUID[:], "folder hash")
	copy(b[0xec:], hashSeed[:])
	b[0xfc] = 1 // half MD4
	b[0xfd] = 1 // the journal's inode is copied below
	le.PutUint16(b[0xfe:], ext4DescSize)
	le.PutUint32(b[0x100:], 0x4|0x8) // xattrs and ACLs on by default
	le.PutUint32(b[0x108:], now)     // made
	copy(b[0x10c:], v.blockMap(v.journal))
	le.PutUint32(b[0x10c+15*4:], uint32(v.journal.size>>32))
	le.PutUint32(b[0x10c+16*4:], uint32(v.journal.size))
	le.PutUint32(b[0x150:], uint32(v.blocks>>32))
	le.PutUint32(b[0x158:], uint32(v.free()>>32))
	le.PutUint16(b[0x15c:], 32) // extra size of inodes
	le.PutUint16(b[0x15e:], 32)
	le.PutUint32(b[0x160:], 1) // signed folder hash
	b[0x174] = ext4FlexLog
	b[0x175] = 1 // crc32c
	le.PutUint32(b[0x270:], v.seed)
	le.PutUint32(b[0x3fc:], crc32c(^uint32(0), b[:0x3fc]))
	return b
}

// descriptors are the group descriptors, as they follow each copy of the superblock.
func (v *ext4Volume) descriptors() []byte {
	b := make([]byte, v.gdt*ext4Block)
	const inodesUninit, tableZeroed = 0x1, 0x4
	for g := range v.groups {
		d := b[g*ext4DescSize:][:ext4DescSize]
		put := func(at int, x int64) {
			le.PutUint32(d[at:], uint32(x))
			le.PutUint32(d[at+0x20:], uint32(x>>32))
		}
		put(0x00, v.blockBitmapAt(g))
		put(0x04, v.inodeBitmapAt(g))
		put(0x08, v.inodeTableAt(g))
		used := v.inodesIn(g)
		flags := uint16(inodesUninit)
		if used > 0 {
			flags = tableZeroed
		}
		le.PutUint16(d[0x0c:], uint16(v.freeIn(g)))
		le.PutUint16(d[0x0e:], uint16(v.inodes-used))
		le.PutUint16(d[0x10:], uint16(v.dirsIn(g)))
		le.PutUint16(d[0x12:], flags)
		le.PutUint16(d[0x1c:], uint16(v.inodes-used))
		sum := crc32c(v.seed, v.blockBitmap(g))
		le.PutUint16(d[0x18:], uint16(sum))
		le.PutUint16(d[0x38:], uint16(sum>>16))
		if used > 0 {
			sum = crc32c(v.seed, v.inodeBitmap(g)[:v.inodes/8])
			le.PutUint16(d[0x1a:], uint16(sum))
			le.PutUint16(d[0x3a:], uint16(sum>>16))
		}
		sum = crc32c(v.seed, le.AppendUint32(nil, uint32(g)))
		le.PutUint16(d[0x1e:], uint16(crc32c(sum, d)))
	}
	return b
}

func (v *ext4Volume) blockBitmap(g int64) []byte {
	b := make([]byte, ext4Block)
	for _, r := range v.usedIn(g) {
		setBits(b, r.at, r.at+r.count)
	}
	setBits(b, min(ext4Group, v.blocks-g*ext4Group), ext4Group) // behind the end
	return b
}

func (v *ext4Volume) inodeBitmap(g int64) []byte {
	b := make([]byte, ext4Block)
	setBits(b, 0, v.inodesIn(g))
	setBits(b, v.inodes, ext4Group)
	return b
}

func setBits(b []byte, from, to int64) {
	for i := from; i < to; i++ {
		if i%8 == 0 && to-i >= 8 {
			b[i/8] = 0xff
			i += 7
			continue
		}
		b[i/8] |= 1 << (i % 8)
	}
}

// inodeTable encodes the inodes in use of a group.
func (v *ext4Volume) inodeTable(g int64) []byte {
	var b []byte
	for k := range v.inodesIn(g) {
		b = append(b, v.inodeBytes(uint32(g*v.inodes+k+1))...)
	}
	return b
}

func (v *ext4Volume) inodeBytes(number uint32) []byte {
	b := make([]byte, ext4InodeSize)
	i := v.inode(int64(number))
	if i == nil {
		if number == 1 { // bad blocks: none
			v.putTimes(b)
			v.putInodeSum(b, number)
		}
		return b
	}
	mode, links := uint16(0o100000), 1
	if i.IsDir() {
		mode, links = 0o040000, 2+i.Subdirs()
	}
	mode |= uint16(i.Mode.Perm())
	blocks := int64(len(i.leaves)) * ext4Block / 512
	for _, r := range i.runs {
		blocks += r.count * ext4Block / 512
	}
	le.PutUint16(b[0x00:], mode)
	le.PutUint32(b[0x04:], uint32(i.size))
	le.PutUint16(b[0x1a:], uint16(links))
	le.PutUint32(b[0x1c:], uint32(blocks))
	le.PutUint32(b[0x20:], 0x80000) // extents
	copy(b[0x28:], v.blockMap(i))
	le.PutUint32(b[0x6c:], uint32(i.size>>32))
	le.PutUint16(b[0x74:], uint16(blocks>>32))
	v.putTimes(b)
	v.putInodeSum(b, number)
	return b
}

func (v *ext4Volume) putTimes(b []byte) {
	now := max(v.Time.Unix(), 0)
	for _, at := range []int{0x08, 0x0c, 0x10, 0x90} { // access, change, modification, creation
		le.PutUint32(b[at:], uint32(now))
	}
	for _, at := range []int{0x84, 0x88, 0x8c, 0x94} { // bits 32 and 33 of the seconds
		le.PutUint32(b[at:], uint32(now>>32)&3)
	}
	le.PutUint16(b[0x80:], 32) // size of what is behind the first 128 bytes
}

func (v *ext4Volume) putInodeSum(b []byte, number uint32) {
	sum := crc32c(v.inodeSeed(number), b)
	le.PutUint16(b[0x7c:], uint16(sum))
	le.PutUint16(b[0x82:], uint16(sum>>16))
}

// inodeSeed begins the checksums of an inode and its blocks: number and generation.
func (v *ext4Volume) inodeSeed(number uint32) uint32 {
	b := le.AppendUint32(nil, number)
	return crc32c(v.seed, le.AppendUint32(b, 0))
}

// extents splits an inode's runs for the leaves of its tree: one in the inode itself, or
// several blocks.
func (i *ext4Inode) extents() [][]run {
	if len(i.leaves) == 0 {
		return [][]run{i.runs}
	}
	parts := make([][]run, len(i.leaves))
	for k := range parts {
		parts[k] = i.runs[min(len(i.runs), k*ext4LeafExtents):min(len(i.runs), (k+1)*ext4LeafExtents)]
	}
	return parts
}

// blockMap is the 60 bytes of an inode that say where its content is: the root of the extent tree.
func (v *ext4Volume) blockMap(i *ext4Inode) []byte {
	if len(i.leaves) == 0 {
		b := extentHeader(len(i.runs), ext4InlineMax, 0)
		b, _ = appendExtents(b, i.runs, 0)
		return b
	}
	b := extentHeader(len(i.leaves), ext4InlineMax, 1)
	logical := int64(0)
	for k, part := range i.extents() {
		b = le.AppendUint32(b, uint32(logical))
		b = le.AppendUint32(b, uint32(i.leaves[k]))
		b = le.AppendUint16(b, uint16(i.leaves[k]>>32))
		b = le.AppendUint16(b, 0)
		for _, r := range part {
			logical += r.count
		}
	}
	return b
}

func extentHeader(entries, limit, depth int) []byte {
	b := le.AppendUint16(nil, 0xf30a)
	b = le.AppendUint16(b, uint16(entries))
	b = le.AppendUint16(b, uint16(limit))
	b = le.AppendUint16(b, uint16(depth))
	return le.AppendUint32(b, 0)
}

func appendExtents(b []byte, runs []run, logical int64) ([]byte, int64) {
	for _, r := range runs {
		b = le.AppendUint32(b, uint32(logical))
		b = le.AppendUint16(b, uint16(r.count)) // 32768 is an initialized extent of that length
		b = le.AppendUint16(b, uint16(r.at>>32))
		b = le.AppendUint32(b, uint32(r.at))
		logical += r.count
	}
	return b, logical
}

// addTree writes the blocks of an inode's extent tree.
func (v *ext4Volume) addTree(m *sparse.Image, i *ext4Inode) {
	logical := int64(0)
	for k, part := range i.extents() {
		if len(i.leaves) == 0 {
			return
		}
		b := extentHeader(len(part), ext4LeafExtents, 0)
		b, logical = appendExtents(b, part, logical)
		b = append(b, make([]byte, ext4Block-4-len(b))...)
		b = le.AppendUint32(b, crc32c(v.inodeSeed(i.number), b))
		m.AddBytes(i.leaves[k]*ext4Block, "extents of "+i.String(), b)
	}
}
