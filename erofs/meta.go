package erofs

import (
	"cmp"
	"errors"
	"slices"
)

// meta plans and writes the metadata area: first the inodes, each with its attributes,
// its block map and its inline content; then the directories' blocks.
type meta struct {
	out   *blocks
	nodes []*node // as planned: the root first
	sb    *superblock
	place placer
	after []*node // that have blocks after the inodes
}

// errTooManyInodes is what an image gets whose inodes do not fit into units of 32 bits.
var errTooManyInodes = errors.New("metadata of 128 GiB or more")

func writeMeta(out *blocks, nodes []*node, sb *superblock) error {
	m := &meta{out: out, nodes: nodes, sb: sb}
	sb.metaBlock = out.next()
	sb.xattrBlock = sb.metaBlock
	sb.inodes = uint64(len(nodes))
	sb.compat = compatChecksum | compatMtime
	if err := m.plan(); err != nil {
		return err
	}
	if err := m.writeInodes(); err != nil {
		return err
	}
	for _, n := range m.after {
		if err := m.writeContent(n); err != nil {
			return err
		}
	}
	return nil
}

func (m *meta) plan() error {
	m.sb.buildTime, m.sb.buildNsec = commonTime(m.nodes)
	m.place.place(nidUnit) // some tools take inode number 0 for none
	var after uint32
	for _, n := range m.nodes {
		if err := m.mark(n); err != nil {
			return err
		}
		var rest int
		if n.isDir() {
			n.size, rest = dirSize(n.dirents)
		}
		n.compact = n.fitsCompact(m.sb)
		if n.data != nil {
			n.data.settle()
			n.fullMap = n.data.kind == inExtents && !compactFits(n.data.extents, n.shape())
			m.sb.incompat |= n.data.features()
		}
		size := n.headSize() + n.indexSize()
		switch {
		case n.isDir():
			if rest <= maxInline && size+rest <= blockSize {
				n.tail = uint16(rest)
			}
		case n.isSymlink() && size+len(n.target) <= blockSize:
			n.tail = uint16(n.size)
		case n.data != nil && len(n.data.tail) > 0:
			n.tail = uint16(len(n.data.tail)) // that it fits was seen to when it was stored
		}
		n.nid = m.place.place(size + int(n.tail))
		if m.place.blocks >= 1<<32/unitsPerBlock {
			return errTooManyInodes
		}
		if blocks := n.contentBlocks(); blocks > 0 {
			n.start = after
			after += blocks
			m.after = append(m.after, n)
		}
	}
	for _, n := range m.after {
		n.start += m.sb.metaBlock + m.place.blocks
	}
	m.sb.rootNID = uint16(m.nodes[0].nid)
	if m.sb.packed != nil {
		m.sb.packedNID = uint64(m.sb.packed.nid)
	}
	return nil
}

// mark adds the attributes with which a directory says what it is to overlayfs and to FixUp.
func (m *meta) mark(n *node) (err error) {
	if n.opaque {
		n.xattrs, err = withXattr(n.xattrs, opaqueXattr)
	}
	if n.implied && err == nil {
		n.xattrs, err = withXattr(n.xattrs, impliedXattr)
	}
	if n == m.nodes[0] && err == nil && slices.ContainsFunc(m.nodes, func(n *node) bool { return n.implied }) {
		n.xattrs, err = withXattr(n.xattrs, hasImpliedXattr)
	}
	return err
}

// commonTime returns the time that most inodes have. They need not say it themselves.
func commonTime(nodes []*node) (sec int64, nsec uint32) {
	type when struct {
		sec  int64
		nsec uint32
	}
	count := map[when]int{}
	var best when
	for _, n := range nodes {
		w := when{n.mtime, n.nsec}
		count[w]++
		if c := count[w]; n.mtime >= 0 &&
			(c > count[best] || c == count[best] && (w.sec < best.sec || w.sec == best.sec && w.nsec < best.nsec)) {
			best = w
		}
	}
	return best.sec, best.nsec
}

func (m *meta) writeInodes() error {
	byPlace := slices.SortedFunc(slices.Values(m.nodes), func(a, b *node) int { return cmp.Compare(a.nid, b.nid) })
	at := int64(0)
	var record []byte
	for i, n := range byPlace {
		if err := m.zeros(int64(n.nid)*nidUnit - at); err != nil {
			return err
		}
		record = n.appendInode(record[:0], uint32(i+1))
		if _, err := m.out.Write(record); err != nil {
			return err
		}
		at = int64(n.nid)*nidUnit + int64(len(record))
	}
	m.out.pad()
	return nil
}

var zeroBlock [blockSize]byte

// zeros writes less than a block of zeros.
func (m *meta) zeros(n int64) error {
	_, err := m.out.Write(zeroBlock[:n])
	return err
}

func (m *meta) writeContent(n *node) error {
	if n.isSymlink() {
		_, err := m.out.Write([]byte(n.target))
		m.out.pad()
		return err
	}
	var b []byte
	for rest, left := n.dirents, n.contentBlocks(); left > 0; left-- {
		count, _ := dirBlock(rest)
		b = appendDirents(b[:0], rest[:count])
		rest = rest[count:]
		if _, err := m.out.Write(b); err != nil {
			return err
		}
		m.out.pad()
	}
	return nil
}
