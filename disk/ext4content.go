package disk

import (
	"bytes"
	"io"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/sparse"
)

// ext4FolderSize is the size in bytes of a folder's blocks.
func ext4FolderSize(n *filetree.Node) int64 {
	if n.Name == ext4LostFound && n.Parent != nil && n.Parent.Parent == nil {
		return ext4LostBlocks * ext4Block // room for what e2fsck finds
	}
	blocks, used := int64(1), 0
	for _, name := range append([]string{".", ".."}, names(n)...) {
		size := direntSize(name)
		if used+size > direntSpace {
			blocks, used = blocks+1, 0
		}
		used += size
	}
	return blocks * ext4Block
}

func names(n *filetree.Node) []string {
	list := make([]string, len(n.Children))
	for i, c := range n.Children {
		list[i] = c.Name
	}
	return list
}

const (
	direntTail  = 12 // the checksum, disguised as an entry
	direntSpace = ext4Block - direntTail
)

func direntSize(name string) int { return int(align(int64(8+len(name)), 4)) }

// addFolder writes a folder: linear blocks, each ended by its checksum.
func (v *ext4Volume) addFolder(m *sparse.Image, i *ext4Inode) {
	parent := i.number
	if i.Parent != nil {
		parent = v.byNode[i.Parent].number
	}
	var blocks [][]byte
	var block []byte
	last := 0 // where the last entry begins
	finish := func() {
		// The last entry reaches up to the checksum.
		if len(block) == 0 {
			block, last = append(block, make([]byte, 8)...), 0
		}
		le.PutUint16(block[last+4:], uint16(direntSpace-last))
		block = append(block, make([]byte, direntSpace-len(block))...)
		sum := crc32c(v.inodeSeed(i.number), block)
		block = le.AppendUint32(block, 0)
		block = le.AppendUint16(block, direntTail)
		block = append(block, 0, 0xde)
		block = le.AppendUint32(block, sum)
		blocks = append(blocks, block)
		block = nil
	}
	add := func(name string, number uint32, kind byte) {
		size := direntSize(name)
		if len(block)+size > direntSpace {
			finish()
		}
		last = len(block)
		block = le.AppendUint32(block, number)
		block = le.AppendUint16(block, uint16(size))
		block = append(block, byte(len(name)), kind)
		block = append(block, name...)
		block = append(block, make([]byte, size-8-len(name))...)
	}
	const regular, folder = 1, 2
	add(".", i.number, folder)
	add("..", parent, folder)
	for _, c := range i.Children {
		kind := byte(regular)
		if c.IsDir() {
			kind = folder
		}
		add(c.Name, v.byNode[c].number, kind)
	}
	finish()
	for int64(len(blocks)) < i.size/ext4Block {
		finish()
	}
	content := bytes.Join(blocks, nil)
	for _, r := range i.runs {
		m.AddBytes(r.at*ext4Block, "folder "+i.String(), content[:r.count*ext4Block])
		content = content[r.count*ext4Block:]
	}
}

// addFile writes a file's content. Its pieces share one reader: they are written in their
// order, for they are in that order on the disk.
func (v *ext4Volume) addFile(m *sparse.Image, i *ext4Inode) {
	if i.size == 0 {
		return
	}
	shared := &sharedReader{open: i.Open}
	left := i.size
	for k, r := range i.runs {
		size := min(left, r.count*ext4Block)
		left -= size
		final := k == len(i.runs)-1
		m.Add(r.at*ext4Block, sparse.Extent{Size: size, Name: i.String(), Open: func() (io.ReadCloser, error) {
			return shared.part(size, final)
		}})
		m.AddZero(r.at*ext4Block+size, r.count*ext4Block-size)
	}
}

// sharedReader reads a file that is written in several pieces.
type sharedReader struct {
	open func() (io.ReadCloser, error)
	r    io.ReadCloser
}

func (s *sharedReader) part(size int64, final bool) (io.ReadCloser, error) {
	if s.r == nil {
		r, err := s.open()
		if err != nil {
			return nil, err
		}
		s.r = r
	}
	if final {
		r := s.r
		s.r = nil // a second writing of the image opens the file again
		return r, nil
	}
	return io.NopCloser(io.LimitReader(s.r, size)), nil
}

// addJournal writes an empty journal (jbd2): a superblock, zeros behind it.
func (v *ext4Volume) addJournal(m *sparse.Image) {
	b := make([]byte, 1024)
	be.PutUint32(b[0x00:], 0xc03b3998)
	be.PutUint32(b[0x04:], 4) // superblock, version 2
	be.PutUint32(b[0x0c:], ext4Block)
	be.PutUint32(b[0x10:], uint32(v.journal.size/ext4Block))
	be.PutUint32(b[0x14:], 1) // first block of the log
	be.PutUint32(b[0x18:], 1) // first sequence number; the log's start stays 0: empty
	copy(b[0x30:], v.UUID[:])
	be.PutUint32(b[0x40:], 1) // one file system
	at := v.journal.runs[0].at * ext4Block
	m.AddBytes(at, "journal", b)
	// An older journal's blocks must not be there: they would look like this one's.
	at += int64(len(b))
	for k, r := range v.journal.runs {
		size := r.count * ext4Block
		if k == 0 {
			size -= int64(len(b))
		} else {
			at = r.at * ext4Block
		}
		m.AddZero(at, size)
	}
}
