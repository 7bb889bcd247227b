package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"sort"
	"sync"
)

// A directory is a sequence of blocks. Each begins with its entries of 12 bytes (nid,
// offset of the name in the block, type), sorted by name, and goes on with the names. The
// first entry's name offset tells the number of entries; a name ends where the next
// begins, the last at the block's end or at NUL.

// dirBlock returns how many of the entries go into the next block, and how many bytes
// of it they fill.
func dirBlock(entries []dirent) (count, used int) {
	for _, e := range entries {
		n := direntSize + len(e.name)
		if used+n > blockSize {
			break
		}
		used += n
		count++
	}
	return count, used
}

// dirSize returns a directory's size, and how much of its last block is used.
func dirSize(entries []dirent) (size int64, last int) {
	for len(entries) > 0 {
		size += roundUp(int64(last), blockSize) - int64(last)
		var count int
		count, last = dirBlock(entries)
		size += int64(last)
		entries = entries[count:]
	}
	return size, last
}

// appendDirents appends one block of a directory, without what pads it.
func appendDirents(b []byte, entries []dirent) []byte {
	offset := direntSize * len(entries)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint64(b, uint64(e.node.nid))
		b = binary.LittleEndian.AppendUint16(b, uint16(offset))
		b = append(b, fileType(e.node.mode), 0)
		offset += len(e.name)
	}
	for _, e := range entries {
		b = append(b, e.name...)
	}
	return b
}

// lastDirents returns the entries of a directory's last block.
func lastDirents(entries []dirent) []dirent {
	for {
		count, _ := dirBlock(entries)
		if count == len(entries) {
			return entries
		}
		entries = entries[count:]
	}
}

// dirBytes is one block of a directory as it is read.
type dirBytes struct {
	b     []byte
	count int
}

// readDirBlock reads a block of a directory into buf. It has at least one entry.
func (f *FS) readDirBlock(dir *inode, i int64, buf []byte) (d dirBytes, err error) {
	if l := dir.layout(); l != layoutPlain && l != layoutInline {
		return d, fmt.Errorf("directory %d: %w", dir.nid, ErrUnsupported)
	}
	d.b = buf[:min(blockSize, dir.size-i<<blockBits)]
	if _, err := f.readAt(dir, d.b, i<<blockBits); err != nil {
		return d, err
	}
	if len(d.b) >= direntSize {
		first := int(binary.LittleEndian.Uint16(d.b[8:]))
		if first >= direntSize && first%direntSize == 0 && first <= len(d.b) {
			d.count = first / direntSize
			return d, nil
		}
	}
	return d, fmt.Errorf("directory %d, block %d: %w", dir.nid, i, ErrCorrupt)
}

// entry returns the inode number, type and name of an entry. The name is empty where the
// block is corrupt.
func (d dirBytes) entry(i int) (nid uint64, kind byte, name []byte) {
	le := binary.LittleEndian
	e := d.b[i*direntSize:]
	start, end := int(le.Uint16(e[8:])), len(d.b)
	if i+1 < d.count {
		end = int(le.Uint16(e[direntSize+8:]))
	}
	if start < d.count*direntSize || start >= end || end > len(d.b) {
		return 0, 0, nil
	}
	name = d.b[start:end]
	if nul := bytes.IndexByte(name, 0); nul >= 0 {
		name = name[:nul]
	}
	if len(name) > maxName || bytes.IndexByte(name, '/') >= 0 {
		return 0, 0, nil
	}
	return le.Uint64(e), e[10], name
}

var dirBuffers = sync.Pool{New: func() any { return new([blockSize]byte) }}

// lookup returns the inode number of a directory's entry: a binary search for its
// block, then one in that.
func (f *FS) lookup(dir *inode, name string) (uint64, error) {
	buf := dirBuffers.Get().(*[blockSize]byte)
	defer dirBuffers.Put(buf)
	low, high := int64(0), (dir.size+blockSize-1)>>blockBits
	for low < high {
		mid := low + (high-low)/2
		d, err := f.readDirBlock(dir, mid, buf[:])
		if err != nil {
			return 0, err
		}
		i := sort.Search(d.count, func(i int) bool {
			_, _, n := d.entry(i)
			return string(n) >= name
		})
		switch {
		case i == d.count:
			low = mid + 1
		default:
			nid, _, n := d.entry(i)
			if string(n) == name {
				return nid, nil
			}
			if i > 0 {
				return 0, fs.ErrNotExist
			}
			high = mid
		}
	}
	return 0, fs.ErrNotExist
}
