package erofstest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/internal/filemode"
)

// File is what a tree says of one name.
type File struct {
	Name     string
	Mode     uint32 // as in struct stat
	UID, GID uint32
	Nlink    uint32
	Ino      uint64
	Size     int64 // of a regular file
	ModTime  time.Time
	Rdev     uint64 // of a device
	Link     string // of a symbolic link
	Sum      string // of a regular file's content
	Xattrs   map[string][]byte
}

// String returns all of it but the inode number, on one line.
func (f File) String() string {
	var b strings.Builder
	fmt.Fprintf(
		&b,
		"%q %o %d:%d links=%d %d.%09d",
		f.Name,
		f.Mode,
		f.UID,
		f.GID,
		f.Nlink,
		f.ModTime.Unix(),
		f.ModTime.Nanosecond(),
	)
	switch f.Mode & 0o170000 {
	case 0o100000:
		fmt.Fprintf(&b, " size=%d %s", f.Size, f.Sum)
	case 0o120000:
		fmt.Fprintf(&b, " -> %q", f.Link)
	case 0o020000, 0o060000:
		fmt.Fprintf(&b, " dev=%d", f.Rdev)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Xattrs)) {
		fmt.Fprintf(&b, " %q=%q", name, f.Xattrs[name])
	}
	return b.String()
}

// Unmarked leaves out the attributes by which an image marks the directories that its archive only implies: what the
// archive itself says is compared without them.
func Unmarked(files []File) []File {
	files = slices.Clone(files)
	for i, f := range files {
		if _, ok := f.Xattrs["trusted.kairos.implied"]; ok {
			files[i].Xattrs = maps.Clone(f.Xattrs)
			delete(files[i].Xattrs, "trusted.kairos.implied")
		}
	}
	return files
}

// Lines returns a line for each file, in the order of names. Of files that share an inode,
// all but the first name it.
func Lines(files []File) []string {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	first := map[uint64]string{}
	lines := make([]string, len(files))
	for i, f := range files {
		lines[i] = f.String()
		if f.Mode&0o170000 == 0o040000 {
			continue
		}
		if name, ok := first[f.Ino]; ok {
			lines[i] += fmt.Sprintf(" same as %q", name)
		} else {
			first[f.Ino] = f.Name
		}
	}
	return lines
}

// Walk returns everything in an image, or in several of them.
func Walk(fsys fs.FS) ([]File, error) {
	var files []File
	var walk func(name string) error
	// fs.WalkDir would do, if names were UTF-8.
	walk = func(name string) error {
		info, err := fs.Lstat(fsys, name)
		if err != nil {
			return err
		}
		f, err := describe(fsys, name, info)
		if err != nil {
			return err
		}
		files = append(files, f)
		if !info.IsDir() {
			return nil
		}
		entries, err := fs.ReadDir(fsys, name)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if i, err := e.Info(); err != nil || i.Mode().Type() != e.Type() {
				return fmt.Errorf("%s/%s: type %v in its directory, info %v, %v", name, e.Name(), e.Type(), i, err)
			}
			if err := walk(path.Join(name, e.Name())); err != nil {
				return err
			}
		}
		return nil
	}
	return files, walk(".")
}

func describe(fsys fs.FS, name string, info fs.FileInfo) (f File, err error) {
	s := info.Sys().(*erofs.Stat)
	f = File{
		Name: name, Mode: unixMode(info.Mode()), UID: s.UID, GID: s.GID, Nlink: s.Nlink, Ino: s.Ino,
		ModTime: info.ModTime(),
		Rdev:    s.Rdev, Xattrs: s.Xattrs,
	}
	switch {
	case info.Mode().IsRegular():
		f.Size = info.Size()
		file, err := fsys.Open(name)
		if err != nil {
			return f, err
		}
		defer file.Close()
		f.Sum, err = Sum(file.(io.ReaderAt), f.Size)
		return f, err
	case info.Mode()&fs.ModeSymlink != 0:
		f.Link, err = fs.ReadLink(fsys, name)
	}
	return f, err
}

func unixMode(m fs.FileMode) uint32 {
	u := filemode.ToUnix(m)
	switch m.Type() {
	case fs.ModeDir:
		return u | 0o040000
	case fs.ModeSymlink:
		return u | 0o120000
	case fs.ModeDevice:
		return u | 0o060000
	case fs.ModeDevice | fs.ModeCharDevice:
		return u | 0o020000
	case fs.ModeNamedPipe:
		return u | 0o010000
	}
	return u | 0o100000
}

// Sum returns a digest of a file's content; of a very large file that of some of its parts.
func Sum(r io.ReaderAt, size int64) (string, error) {
	const most, part, step = 256 << 20, 1 << 20, 1 << 28
	h := sha256.New()
	if size <= 1<<20 { // most files
		b := make([]byte, size)
		if n, err := r.ReadAt(b, 0); err != nil && !(err == io.EOF && n == len(b)) {
			return "", err
		}
		h.Write(b)
		return fmt.Sprintf("%x", h.Sum(nil)[:16]), nil
	}
	if size <= most {
		n, err := io.Copy(h, io.NewSectionReader(r, 0, size))
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes of %d", n, size)
		}
		return fmt.Sprintf("%x", h.Sum(nil)[:16]), err
	}
	for at := int64(0); at < size+part; at += step {
		start := max(0, min(at, size)-part/2)
		if _, err := io.Copy(h, io.NewSectionReader(r, start, min(part, size-start))); err != nil {
			return "", err
		}
	}
	if _, err := io.Copy(h, io.NewSectionReader(r, size-part, part)); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:16]), nil
}
