// Package readfs makes a file system out of a function that lists its folders.
package readfs

import (
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// Entry is a file or a folder.
type Entry struct {
	Name string
	Size int64 // bytes; of files
	Mode fs.FileMode
	Time time.Time
	// Open returns the content of a regular file.
	Open func() (io.ReaderAt, error)
}

// New returns the file system whose folders list gives; "." is its root. Its files are [io.ReaderAt] and [io.Seeker].
// A name that is listed twice is the first one, and links are not followed.
func New(list func(dir string) ([]Entry, error)) fs.FS { return tree(list) }

type tree func(dir string) ([]Entry, error)

func (t tree) Open(name string) (fs.File, error) {
	fail := func(err error) (fs.File, error) { return nil, &fs.PathError{Op: "open", Path: name, Err: err} }
	e, err := t.entry(name)
	if err != nil {
		return fail(err)
	}
	switch {
	case e.Mode.IsDir():
		all, err := t.list(name)
		if err != nil {
			return fail(err)
		}
		return &dir{info: info{e}, left: all}, nil
	case !e.Mode.IsRegular():
		return fail(fs.ErrInvalid)
	}
	r, err := e.Open()
	if err != nil {
		return fail(err)
	}
	return &file{info{e}, io.NewSectionReader(r, 0, e.Size)}, nil
}

// Stat implements fs.StatFS.
func (t tree) Stat(name string) (fs.FileInfo, error) {
	e, err := t.entry(name)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return info{e}, nil
}

func (t tree) entry(name string) (Entry, error) {
	if !fs.ValidPath(name) {
		return Entry{}, fs.ErrInvalid
	}
	if name == "." {
		return Entry{Name: ".", Mode: fs.ModeDir | 0o755}, nil
	}
	parent, base := path.Split(name)
	parent = path.Clean(parent)
	// Each folder on the way is asked for, so that none of them is something else.
	if p, err := t.entry(parent); err != nil || !p.Mode.IsDir() {
		return Entry{}, fs.ErrNotExist
	}
	all, err := t.list(parent)
	if err != nil {
		return Entry{}, err
	}
	for _, e := range all {
		if e.Name == base {
			return e, nil
		}
	}
	return Entry{}, fs.ErrNotExist
}

// list returns a folder's entries by name. Names that no path can have are left out.
func (t tree) list(name string) ([]Entry, error) {
	all, err := t(name)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(e Entry) bool {
		return e.Name == "." || strings.Contains(e.Name, "/") || !fs.ValidPath(e.Name)
	})
	slices.SortStableFunc(all, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(all, func(a, b Entry) bool { return a.Name == b.Name }), nil
}

type info struct{ e Entry }

func (i info) Name() string               { return i.e.Name }
func (i info) Size() int64                { return i.e.Size }
func (i info) Mode() fs.FileMode          { return i.e.Mode }
func (i info) ModTime() time.Time         { return i.e.Time }
func (i info) IsDir() bool                { return i.e.Mode.IsDir() }
func (i info) Sys() any                   { return nil }
func (i info) Type() fs.FileMode          { return i.e.Mode.Type() }
func (i info) Info() (fs.FileInfo, error) { return i, nil }

type file struct {
	info info
	*io.SectionReader
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *file) Close() error               { return nil }

type dir struct {
	info info
	left []Entry
}

func (d *dir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *dir) Close() error               { return nil }
func (d *dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.e.Name, Err: fs.ErrInvalid}
}

func (d *dir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(d.left) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(d.left) {
		n = len(d.left)
	}
	var all []fs.DirEntry
	for _, e := range d.left[:n] {
		all = append(all, info{e})
	}
	d.left = d.left[n:]
	return all, nil
}
