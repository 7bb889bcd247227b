package disk

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/sparse"
)

// Ext4 describes an ext4 file system, with what mke2fs gives it by default, metadata checksums
// included, but for the resize inode: the kernel grows the file system without it.
//
//	block (4096 bytes)
//	0      superblock at 1024 · group descriptors       copies in groups 1 and 3ⁿ, 5ⁿ, 7ⁿ
//	...    for 16 groups at a time: block bitmaps · inode bitmaps · inode tables
//	...    folders, files, journal: each as contiguous as the above allows
//
// All inodes are in the first groups; the other groups' inode tables are left to the kernel to
// clear. Linux, Documentation/filesystems/ext4; e2fsprogs, lib/ext2fs/ext2_fs.h.
type Ext4 struct {
	Label string   // at most 16 bytes
	UUID  [16]byte // also what the seed of all checksums is made of
	Size  int64    // in bytes; what exceeds a multiple of 4096 is not used
	Time  time.Time
	Files []filetree.File
}

const (
	ext4Block       = 4096
	ext4Group       = 8 * ext4Block // blocks in a group
	ext4Flex        = 16            // groups whose bitmaps and inode tables are together
	ext4FlexLog     = 4
	ext4InodeSize   = 256
	ext4InodeRatio  = 16384 // bytes of the file system for each inode
	ext4DescSize    = 64
	ext4RootInode   = 2
	ext4Journal     = 8
	ext4FirstInode  = 11 // lost+found; those before are the file system's own
	ext4LostFound   = "lost+found"
	ext4LostBlocks  = 4
	ext4ExtentMax   = 32768     // blocks in an extent
	ext4Max         = 128 << 40 // bytes: above, the group descriptors leave no room in their group
	ext4InlineMax   = 4         // extents, or index entries, in an inode
	ext4LeafExtents = (ext4Block - 12 - 4) / 12
)

// Image lays the file system out.
func (e Ext4) Image() (*sparse.Image, error) {
	v, err := e.layOut()
	if err != nil {
		return nil, fmt.Errorf("lay out ext4 file system %s: %w", e.Label, err)
	}
	return v.image()
}

// MinSize returns the size in bytes, a multiple of 1 MiB, of the smallest file system that
// holds the files, and free bytes beside them.
func (e Ext4) MinSize(free int64) (int64, error) {
	const step = 1 << 20
	size := int64(step)
	for _, f := range e.Files {
		size += align(f.Size, ext4Block)
	}
	for e.Size = align(size+free, step); ; e.Size += max(step, align(e.Size/512, step)) {
		v, err := e.layOut()
		if err == nil && v.free() >= free/ext4Block {
			return e.Size, nil
		}
		if err != nil && !errors.As(err, new(*noSpaceError)) {
			return 0, fmt.Errorf("lay out ext4 file system %s: %w", e.Label, err)
		}
	}
}

// noSpaceError says that the files do not fit.
type noSpaceError struct{ size int64 }

func (e *noSpaceError) Error() string {
	return fmt.Sprintf("the files do not fit into %d bytes", e.size)
}

// ext4Volume is a file system that is being laid out. Positions are in blocks.
type ext4Volume struct {
	Ext4
	seed   uint32 // of checksums
	blocks int64
	groups int64
	gdt    int64 // blocks of group descriptors
	inodes int64 // in a group
	itable int64 // blocks of a group's inode table

	used  []run // by the file system's own structures, then by content; sorted
	next  int64 // first block that content may get
	taken int   // the element of used that is at or behind next

	root    *filetree.Node
	nodes   []*ext4Inode // inode 11 and up; the root is apart
	byNode  map[*filetree.Node]*ext4Inode
	rootDir *ext4Inode
	journal *ext4Inode
}

// run is a range of blocks.
type run struct{ at, count int64 }

// ext4Inode is a file or folder with its place.
type ext4Inode struct {
	*filetree.Node
	number uint32
	size   int64
	runs   []run
	leaves []int64 // blocks of the extent tree below the inode
}

func (e Ext4) layOut() (*ext4Volume, error) {
	if len(e.Label) > 16 {
		return nil, errors.New("the label has more than 16 bytes")
	}
	v := &ext4Volume{Ext4: e, blocks: e.Size / ext4Block, byNode: map[*filetree.Node]*ext4Inode{}}
	if e.Size > ext4Max {
		return nil, fmt.Errorf("%d bytes are too large: at most %d TiB", e.Size, ext4Max>>40)
	}
	v.seed = crc32c(^uint32(0), e.UUID[:])
	var err error
	lostFound := filetree.File{Path: ext4LostFound, Mode: 0o700 | modeDir}
	if v.root, err = filetree.New(append(append([]filetree.File(nil), e.Files...), lostFound)); err != nil {
		return nil, err
	}
	v.root.Walk(func(n *filetree.Node) {
		if len(n.Name) > 255 {
			err = fmt.Errorf("%s: the name has more than 255 bytes", n.String())
		}
	})
	if err != nil {
		return nil, err
	}
	if err := v.placeGroups(); err != nil {
		return nil, err
	}
	return v, v.placeContent()
}

// placeGroups divides the file system into groups and reserves what is at a fixed place.
func (v *ext4Volume) placeGroups() error {
	for {
		v.groups = (v.blocks + ext4Group - 1) / ext4Group
		if v.groups == 0 {
			return &noSpaceError{v.Size}
		}
		v.gdt = (v.groups*ext4DescSize + ext4Block - 1) / ext4Block
		perBlock := int64(ext4Block / ext4InodeSize)
		v.inodes = align(max(v.Size/ext4InodeRatio/v.groups, perBlock*4), perBlock)
		v.inodes = min(v.inodes, 8*ext4Block, math.MaxUint32/v.groups/perBlock*perBlock) // 32 bits number them
		v.itable = v.inodes / perBlock
		// A last group that is too small for what has to be in it is left out.
		last := v.groups - 1
		need := int64(50)
		for _, r := range v.fixed(last) {
			need += r.count
		}
		if size := v.blocks - last*ext4Group; size >= need {
			break
		}
		v.blocks = last * ext4Group
	}
	for g := range v.groups {
		v.used = append(v.used, v.fixed(g)...)
	}
	return nil
}

// fixed lists what is at a fixed place in a group.
func (v *ext4Volume) fixed(g int64) []run {
	var runs []run
	if v.hasSuper(g) {
		runs = append(runs, run{g * ext4Group, 1 + v.gdt})
	}
	if g%ext4Flex == 0 {
		n := v.flexGroups(g)
		runs = append(runs, run{v.flexStart(g), n * (2 + v.itable)})
	}
	return runs
}

// hasSuper says whether a group has a copy of superblock and group descriptors.
func (v *ext4Volume) hasSuper(g int64) bool {
	if g <= 1 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := base
		for n < g {
			n *= base
		}
		if n == g {
			return true
		}
	}
	return false
}

// flexStart is where the bitmaps and inode tables of the 16 groups around g begin.
func (v *ext4Volume) flexStart(g int64) int64 {
	leader := g - g%ext4Flex
	at := leader * ext4Group
	if v.hasSuper(leader) {
		at += 1 + v.gdt
	}
	return at
}

// flexGroups is their number.
func (v *ext4Volume) flexGroups(g int64) int64 { return min(ext4Flex, v.groups-(g-g%ext4Flex)) }

func (v *ext4Volume) blockBitmapAt(g int64) int64 { return v.flexStart(g) + g%ext4Flex }
func (v *ext4Volume) inodeBitmapAt(g int64) int64 { return v.blockBitmapAt(g) + v.flexGroups(g) }
func (v *ext4Volume) inodeTableAt(g int64) int64 {
	return v.flexStart(g) + 2*v.flexGroups(g) + g%ext4Flex*v.itable
}

// placeContent numbers the inodes and gives folders, files and the journal their blocks.
func (v *ext4Volume) placeContent() error {
	number := uint32(ext4FirstInode)
	add := func(n *filetree.Node, number uint32, size int64) (*ext4Inode, error) {
		i := &ext4Inode{Node: n, number: number, size: size}
		v.byNode[n] = i
		return i, v.place(i)
	}
	var err error
	if v.rootDir, err = add(v.root, ext4RootInode, ext4FolderSize(v.root)); err != nil {
		return err
	}
	var walk func(n *filetree.Node) error
	walk = func(n *filetree.Node) error {
		// lost+found first: its inode number is 11 by convention.
		for _, first := range []bool{true, false} {
			for _, c := range n.Children {
				if (n == v.root && c.Name == ext4LostFound) != first {
					continue
				}
				size := c.Size
				if c.IsDir() {
					size = ext4FolderSize(c)
				}
				i, err := add(c, number, size)
				if err != nil {
					return err
				}
				number++
				v.nodes = append(v.nodes, i)
				if err := walk(c); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := walk(v.root); err != nil {
		return err
	}
	if int64(number) > v.groups*v.inodes {
		return &noSpaceError{v.Size}
	}
	v.journal = &ext4Inode{
		number: ext4Journal,
		size:   v.journalBlocks() * ext4Block,
		Node:   &filetree.Node{File: filetree.File{Mode: 0o600}},
	}
	return v.place(v.journal)
}

// journalBlocks is the journal's size as mke2fs chooses it.
func (v *ext4Volume) journalBlocks() int64 {
	switch {
	case v.blocks < 32768:
		return 1024
	case v.blocks < 256*1024:
		return 4096
	case v.blocks < 512*1024:
		return 8192
	case v.blocks < 4096*1024:
		return 16384
	}
	return 32768
}

// place gives an inode its blocks, and those of its extent tree before them.
func (v *ext4Volume) place(i *ext4Inode) error {
	count := (i.size + ext4Block - 1) / ext4Block
	// Where the tree needs blocks shows in how many pieces the content is, and that
	// depends on where it begins. One more leaf than needed does no harm, so the number
	// is taken from a trial.
	trial := *v
	trial.used = append([]run(nil), v.used...)
	runs, err := trial.take(count)
	if err != nil {
		return err
	}
	if len(runs) > ext4InlineMax {
		leaves, err := v.take(int64(len(runs)+1+ext4LeafExtents-1) / ext4LeafExtents)
		if err != nil {
			return err
		}
		for _, r := range leaves {
			for b := range r.count {
				i.leaves = append(i.leaves, r.at+b)
			}
		}
		if len(i.leaves) > ext4InlineMax {
			return fmt.Errorf("%s: %d bytes are too many for one file", i.String(), i.size)
		}
	}
	i.runs, err = v.take(count)
	return err
}

// take reserves the next free blocks, in pieces no longer than an extent.
func (v *ext4Volume) take(count int64) ([]run, error) {
	var runs []run
	for count > 0 {
		for v.taken < len(v.used) && v.used[v.taken].at <= v.next {
			v.next = max(v.next, v.used[v.taken].at+v.used[v.taken].count)
			v.taken++
		}
		end := v.blocks
		if v.taken < len(v.used) {
			end = v.used[v.taken].at
		}
		n := min(count, end-v.next, ext4ExtentMax)
		if n <= 0 {
			return nil, &noSpaceError{v.Size}
		}
		runs = append(runs, run{v.next, n})
		v.next += n
		count -= n
	}
	return runs, nil
}

// usedIn lists the blocks in use of a group, as ranges relative to it.
func (v *ext4Volume) usedIn(g int64) []run {
	start, end := g*ext4Group, min((g+1)*ext4Group, v.blocks)
	var runs []run
	if n := min(v.next, end) - start; n > 0 {
		runs = append(runs, run{0, n}) // content is allocated without gaps
	}
	for _, r := range v.fixed(g) {
		if r.at >= v.next { // else it is in the run above
			runs = append(runs, run{r.at - start, r.count})
		}
	}
	return runs
}

// free counts the free blocks.
func (v *ext4Volume) free() int64 {
	n := int64(0)
	for g := range v.groups {
		n += v.freeIn(g)
	}
	return n
}

func (v *ext4Volume) freeIn(g int64) int64 {
	n := min(ext4Group, v.blocks-g*ext4Group)
	for _, r := range v.usedIn(g) {
		n -= r.count
	}
	return n
}
