package erofs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/internal/filemode"
)

// validPath is fs.ValidPath without its demand for UTF-8, which Linux does not make.
func validPath(name string) bool {
	if name == "." {
		return true
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

func (f *FS) find(op, name string, follow bool) (*inode, error) {
	if !validPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	n, err := f.walk(name, follow)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return n, nil
}

// Open opens a file or directory. A file is also an [io.ReaderAt] and an [io.Seeker].
func (f *FS) Open(name string) (fs.File, error) {
	n, err := f.find("open", name, true)
	if err != nil {
		return nil, err
	}
	o := &openFile{fsys: f, inode: n, name: name}
	if n.isDir() {
		return &openDir{openFile: o}, nil
	}
	return &openRegular{openFile: o, SectionReader: io.NewSectionReader(o, 0, n.size)}, nil
}

// Stat returns what is known of a file, or of what the symbolic link stands for.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	n, err := f.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return f.info(name, n)
}

// Lstat is Stat that does not follow a symbolic link at the end of name.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	n, err := f.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return f.info(name, n)
}

// ReadLink returns the target of a symbolic link.
func (f *FS) ReadLink(name string) (string, error) {
	n, err := f.find("readlink", name, false)
	if err == nil && !n.isSymlink() {
		err = &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	if err != nil {
		return "", err
	}
	target, err := f.readlink(n)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// ReadDir returns a directory's entries in the order of their names.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := f.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	d := &openDir{openFile: &openFile{fsys: f, inode: n, name: name}}
	return d.ReadDir(-1)
}

// maxReadFile is how much ReadFile takes into memory, in bytes.
const maxReadFile = 1 << 30

// ReadFile returns a file's content, which may have up to 1 GiB.
func (f *FS) ReadFile(name string) ([]byte, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(file, maxReadFile+1)) // a hostile image may lie about the size
	if len(b) > maxReadFile {
		b, err = nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("it has more than 1 GiB")}
	}
	return b, errors.Join(err, file.Close())
}

func (f *FS) info(name string, n *inode) (fs.FileInfo, error) {
	s, err := f.stat(n)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return &fileInfo{name: path.Base(name), inode: n, stat: s}, nil
}

type fileInfo struct {
	name  string
	inode *inode
	stat  *Stat
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.inode.size }
func (i *fileInfo) Mode() fs.FileMode  { return goMode(i.inode.mode) }
func (i *fileInfo) ModTime() time.Time { return i.inode.mtime }
func (i *fileInfo) IsDir() bool        { return i.inode.isDir() }
func (i *fileInfo) Sys() any           { return i.stat }

func goMode(mode uint16) fs.FileMode {
	return goType(fileType(mode)) | filemode.FromUnix(uint32(mode))
}

func goType(kind byte) fs.FileMode {
	switch kind {
	case ftRegular:
		return 0
	case ftDir:
		return fs.ModeDir
	case ftChar:
		return fs.ModeDevice | fs.ModeCharDevice
	case ftBlock:
		return fs.ModeDevice
	case ftFifo:
		return fs.ModeNamedPipe
	case ftSocket:
		return fs.ModeSocket
	case ftSymlink:
		return fs.ModeSymlink
	}
	return fs.ModeIrregular
}

// openFile is what open files and directories have in common.
type openFile struct {
	fsys  *FS
	inode *inode
	name  string
}

func (o *openFile) Stat() (fs.FileInfo, error) { return o.fsys.info(o.name, o.inode) }
func (o *openFile) Close() error               { return nil }

// ReadAt is the content; io.NewSectionReader makes the file of it.
func (o *openFile) ReadAt(p []byte, off int64) (int, error) {
	if o.inode.mode&modeType != modeRegular {
		return 0, o.fail("read", fs.ErrInvalid)
	}
	c, err := o.fsys.readAt(o.inode, p, off)
	if err != nil && err != io.EOF {
		err = o.fail("read", err)
	}
	return c, err
}

func (o *openFile) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: o.name, Err: err}
}

type openRegular struct {
	*openFile
	*io.SectionReader
}

func (o *openRegular) ReadAt(p []byte, off int64) (int, error) { return o.SectionReader.ReadAt(p, off) }

type openDir struct {
	*openFile
	block int64         // next to read
	ready []fs.DirEntry // of blocks that were read
}

func (d *openDir) Read([]byte) (int, error) { return 0, d.fail("read", errIsDir) }

func (d *openDir) ReadDir(count int) ([]fs.DirEntry, error) {
	if !d.inode.isDir() {
		return nil, d.fail("readdir", errNotDir)
	}
	buf := dirBuffers.Get().(*[blockSize]byte)
	defer dirBuffers.Put(buf)
	blocks := (d.inode.size + blockSize - 1) >> blockBits
	for (count <= 0 || len(d.ready) < count) && d.block < blocks {
		raw, err := d.fsys.readDirBlock(d.inode, d.block, buf[:])
		if err != nil {
			return nil, d.fail("readdir", err)
		}
		d.block++
		for i := range raw.count {
			nid, kind, name := raw.entry(i)
			switch string(name) {
			case ".", "..":
			case "":
				return nil, d.fail(
					"readdir",
					fmt.Errorf("directory %d, block %d: %w", d.inode.nid, d.block-1, ErrCorrupt),
				)
			default:
				d.ready = append(d.ready, &dirEntry{d.fsys, string(name), nid, kind})
			}
		}
	}
	return takeEntries(&d.ready, count)
}

// takeEntries takes what one call of [fs.ReadDirFile.ReadDir] returns off the front of a list.
func takeEntries(ready *[]fs.DirEntry, count int) ([]fs.DirEntry, error) {
	n := len(*ready)
	if count > 0 {
		n = min(n, count)
		if n == 0 {
			return nil, io.EOF
		}
	}
	list := (*ready)[:n:n]
	*ready = (*ready)[n:]
	return list, nil
}

type dirEntry struct {
	fsys *FS
	name string
	nid  uint64
	kind byte
}

func (e *dirEntry) Name() string      { return e.name }
func (e *dirEntry) IsDir() bool       { return e.kind == ftDir }
func (e *dirEntry) Type() fs.FileMode { return goType(e.kind) }
func (e *dirEntry) String() string    { return fs.FormatDirEntry(e) }
func (e *dirEntry) Info() (fs.FileInfo, error) {
	n, err := e.fsys.inode(e.nid)
	if err != nil {
		return nil, err
	}
	return e.fsys.info(e.name, n)
}
