package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// ErrCorrupt is what the reader returns for an image that cannot be as it is.
var ErrCorrupt = errors.New("image is corrupt")

// FS is the tree of an image. It implements [fs.StatFS], [fs.ReadDirFS],
// [fs.ReadFileFS] and [fs.ReadLinkFS]. Names need not be UTF-8. Symbolic links are
// followed inside the image: "/" and the ".." of the root are its root.
//
// A FS can be used by several goroutines at a time.
type FS struct {
	r    io.ReaderAt
	meta *metaCache // the same, for metadata
	sb   superblock
	z    *decompressor
}

// Stat is what the Sys method of a [fs.FileInfo] returns a pointer to.
type Stat struct {
	Ino      uint64
	UID, GID uint32
	Nlink    uint32
	Rdev     uint64 // of a device, as mknod(2) takes it
	Xattrs   map[string][]byte
}

// Open reads an image's superblock. Errors that mean another format, or features that
// Convert does not use, are ErrUnsupported, others are ErrCorrupt or from r.
func Open(r io.ReaderAt) (*FS, error) {
	f := &FS{r: r, meta: &metaCache{r: r}}
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("open EROFS image: %w", err)
	}
	return f, nil
}

func (f *FS) open() error {
	b := make([]byte, blockSize)
	if _, err := io.ReadFull(io.NewSectionReader(f.r, 0, blockSize), b); err != nil {
		return err
	}
	d := b[superOffset:]
	le := binary.LittleEndian
	if le.Uint32(d) != superMagic {
		return fmt.Errorf("no EROFS superblock: %w", ErrUnsupported)
	}
	f.sb = superblock{
		compat: le.Uint32(d[8:]), incompat: le.Uint32(d[80:]), rootNID: le.Uint16(d[14:]), inodes: le.Uint64(d[16:]),
		buildTime: int64(
			le.Uint64(d[24:]),
		), buildNsec: le.Uint32(d[32:]), blocks: le.Uint32(d[36:]), metaBlock: le.Uint32(d[40:]),
		xattrBlock: le.Uint32(d[44:]), algorithms: le.Uint16(d[84:]), packedNID: le.Uint64(d[96:]),
	}
	if d[12] != blockBits || f.sb.incompat&^incompatKnown != 0 || le.Uint16(d[86:]) != 0 {
		return fmt.Errorf("block size 1<<%d, features %#x: %w", d[12], f.sb.incompat, ErrUnsupported)
	}
	if f.sb.compat&compatChecksum != 0 && le.Uint32(d[4:]) != superChecksum(d) {
		return fmt.Errorf("superblock's checksum: %w", ErrCorrupt)
	}
	f.z = newDecompressor()
	return nil
}

// Compression says which algorithm the kernel has to know for the image.
func (f *FS) Compression() Compression {
	switch {
	case f.sb.algorithms&(1<<algorithmZstd) != 0:
		return Zstd
	case f.sb.algorithms&(1<<algorithmLZ4) != 0:
		return LZ4
	}
	return None
}

// inode is an inode as it is read.
type inode struct {
	nid    uint64
	format uint16
	mode   uint16
	nlink  uint32
	uid    uint32
	gid    uint32
	size   int64
	where  uint32
	mtime  time.Time

	xattrs, body int64 // offsets in the image of what follows the inode

	last atomic.Pointer[extentAt] // that was read
}

func (n *inode) layout() uint16  { return n.format >> 1 & 7 }
func (n *inode) isDir() bool     { return n.mode&modeType == modeDir }
func (n *inode) isSymlink() bool { return n.mode&modeType == modeSymlink }

func (f *FS) inode(nid uint64) (*inode, error) {
	at := int64(f.sb.metaBlock)<<blockBits + int64(nid)*nidUnit
	if nid >= 1<<40 || at >= int64(f.sb.blocks)<<blockBits {
		return nil, fmt.Errorf("inode %d: %w", nid, ErrCorrupt)
	}
	var b [inodeExtendedSize]byte
	if _, err := f.meta.ReadAt(b[:inodeCompactSize], at); err != nil {
		return nil, fmt.Errorf("inode %d: %w", nid, err)
	}
	le := binary.LittleEndian
	n := &inode{nid: nid, format: le.Uint16(b[0:]), mode: le.Uint16(b[4:]), where: le.Uint32(b[16:])}
	if n.format&1 == 0 {
		n.nlink, n.size = uint32(le.Uint16(b[6:])), int64(le.Uint32(b[8:]))
		n.uid, n.gid = uint32(le.Uint16(b[24:])), uint32(le.Uint16(b[26:]))
		n.mtime = time.Unix(f.sb.buildTime, int64(f.sb.buildNsec))
		n.xattrs = at + inodeCompactSize
	} else {
		if _, err := f.meta.ReadAt(b[:], at); err != nil {
			return nil, fmt.Errorf("inode %d: %w", nid, err)
		}
		n.size, n.uid, n.gid = int64(le.Uint64(b[8:])), le.Uint32(b[24:]), le.Uint32(b[28:])
		n.mtime = time.Unix(int64(le.Uint64(b[32:])), int64(le.Uint32(b[40:])))
		n.nlink = le.Uint32(b[44:])
		n.xattrs = at + inodeExtendedSize
	}
	n.body = n.xattrs + int64(xattrSize(le.Uint16(b[2:])))
	if n.size < 0 || fileType(n.mode) == 0 {
		return nil, fmt.Errorf("inode %d: mode %o, size %d: %w", nid, n.mode, n.size, ErrCorrupt)
	}
	return n, nil
}

func (f *FS) stat(n *inode) (*Stat, error) {
	s := &Stat{Ino: n.nid, UID: n.uid, GID: n.gid, Nlink: n.nlink}
	if t := n.mode & modeType; t == modeChar || t == modeBlock {
		s.Rdev = uint64(n.where)
	}
	b := make([]byte, n.body-n.xattrs)
	if _, err := f.meta.ReadAt(b, n.xattrs); err != nil && len(b) > 0 {
		return nil, err
	}
	var err error
	s.Xattrs, err = decodeXattrs(b)
	return s, err
}

func (f *FS) readlink(n *inode) (string, error) {
	if n.size == 0 || n.size > maxSymlink {
		return "", fmt.Errorf("symbolic link %d with %d bytes: %w", n.nid, n.size, ErrCorrupt)
	}
	b := make([]byte, n.size)
	_, err := f.readAt(n, b, 0)
	return string(b), err
}

// walk resolves a name. With follow, a symbolic link at its end is followed, too.
func (f *FS) walk(name string, follow bool) (*inode, error) {
	root, err := f.inode(uint64(f.sb.rootNID))
	if err != nil {
		return nil, err
	}
	if !root.isDir() {
		return nil, fmt.Errorf("root: %w", ErrCorrupt)
	}
	return resolve(root, name, follow, f.child, f.readlink)
}

func (f *FS) child(dir *inode, name string) (*inode, error) {
	nid, err := f.lookup(dir, name)
	if err != nil {
		return nil, err
	}
	return f.inode(nid)
}

var (
	errNotDir = errors.New("not a directory")
	errIsDir  = errors.New("is a directory")
	errLoop   = errors.New("too many symbolic links")
)
