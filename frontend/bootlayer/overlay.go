package bootlayer

import (
	"bytes"
	"errors"
	"io/fs"
	"path"
	"time"
)

// with shows the tree root with regular files added or replaced, for readers that open
// files by name.
func with(root fs.FS, files []File) fs.FS {
	m := map[string]File{}
	for _, f := range files {
		if f.Link != "" || f.Mode.IsDir() || f.Removed {
			continue
		}
		m[f.Path] = f
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			if _, err := fs.Lstat(root, dir); errors.Is(err, fs.ErrNotExist) {
				m[dir] = File{Path: dir, Mode: fs.ModeDir | 0o755}
			}
		}
	}
	return added{root, m}
}

type added struct {
	fs.FS
	files map[string]File
}

func (a added) Open(name string) (fs.File, error) {
	if f, ok := a.files[name]; ok {
		return openFile{bytes.NewReader(f.Data), f}, nil
	}
	return a.FS.Open(name)
}

func (a added) ReadLink(name string) (string, error) {
	if _, ok := a.files[name]; ok {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return fs.ReadLink(a.FS, name)
}

func (a added) Lstat(name string) (fs.FileInfo, error) {
	if f, ok := a.files[name]; ok {
		return fileInfo{f}, nil
	}
	return fs.Lstat(a.FS, name)
}

type openFile struct {
	*bytes.Reader
	f File
}

func (o openFile) Stat() (fs.FileInfo, error) { return fileInfo{o.f}, nil }
func (o openFile) Close() error               { return nil }

type fileInfo struct{ f File }

func (i fileInfo) Name() string       { return path.Base(i.f.Path) }
func (i fileInfo) Size() int64        { return int64(len(i.f.Data)) }
func (i fileInfo) Mode() fs.FileMode  { return i.f.Mode }
func (i fileInfo) ModTime() time.Time { return Time }
func (i fileInfo) IsDir() bool        { return i.f.Mode.IsDir() }
func (i fileInfo) Sys() any           { return nil }
