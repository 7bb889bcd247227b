package erofs

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// OverlayFS is several trees seen as one, as overlayfs merges them.
type OverlayFS struct {
	layers []fs.FS // highest first
}

// Overlay returns the merged view of layers: a name is what the highest layer that has it
// says; directories are merged; a character device 0:0 (a whiteout) hides the name in the
// layers below, and a directory with trusted.overlay.opaque=y all that they have in it.
// Symbolic links are followed inside the merged tree, never outside.
//
// Layers that are not [fs.ReadLinkFS] have no symbolic links.
func Overlay(lowestFirst ...fs.FS) *OverlayFS {
	layers := slices.Clone(lowestFirst)
	slices.Reverse(layers)
	return &OverlayFS{layers}
}

// place is a name in the merged tree: its path without symbolic links, and the layers
// that it comes from: several for a directory, else one.
type place struct {
	name   string
	layers []fs.FS
	info   fs.FileInfo // of the first layer
}

func isWhiteout(i fs.FileInfo) bool {
	s, ok := i.Sys().(*Stat)
	return ok && i.Mode()&fs.ModeCharDevice != 0 && s.Rdev == 0
}

func isOpaque(i fs.FileInfo) bool {
	s, ok := i.Sys().(*Stat)
	return ok && string(s.Xattrs["trusted.overlay.opaque"]) == "y"
}

// merge looks a name up in layers that all have its parent directory.
func merge(layers []fs.FS, name string) (*place, error) {
	p := &place{name: name}
	for _, layer := range layers {
		info, err := fs.Lstat(layer, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		switch {
		case isWhiteout(info), len(p.layers) > 0 && !info.IsDir():
			return p.found()
		case len(p.layers) == 0:
			p.info = info
		}
		p.layers = append(p.layers, layer)
		if !info.IsDir() || isOpaque(info) {
			return p.found()
		}
	}
	return p.found()
}

func (p *place) found() (*place, error) {
	if len(p.layers) == 0 {
		return nil, fs.ErrNotExist
	}
	return p, nil
}

func (p *place) isDir() bool     { return p.info.IsDir() }
func (p *place) isSymlink() bool { return p.info.Mode()&fs.ModeSymlink != 0 }

func (p *place) child(name string) (*place, error) {
	return merge(p.layers, path.Join(p.name, name))
}

func (p *place) readlink() (string, error) { return fs.ReadLink(p.layers[0], p.name) }

func (o *OverlayFS) walk(name string, follow bool) (*place, error) {
	root, err := merge(o.layers, ".")
	if err != nil {
		return nil, err
	}
	return resolve(root, name, follow, (*place).child, (*place).readlink)
}

func (o *OverlayFS) find(op, name string, follow bool) (*place, error) {
	if !validPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	p, err := o.walk(name, follow)
	var inner *fs.PathError
	if errors.As(err, &inner) {
		err = inner.Err
	}
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return p, nil
}

// Open opens a file or directory.
func (o *OverlayFS) Open(name string) (fs.File, error) {
	p, err := o.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if p.info.IsDir() {
		return &overlayDir{place: p, base: path.Base(name), path: name}, nil
	}
	file, err := p.layers[0].Open(p.name)
	if err != nil {
		return nil, err
	}
	if path.Base(name) == path.Base(p.name) {
		return file, nil
	}
	return renamed(file, path.Base(name)), nil
}

// Stat returns what is known of a file, or of what the symbolic link stands for.
func (o *OverlayFS) Stat(name string) (fs.FileInfo, error) {
	p, err := o.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return &renamedInfo{p.info, path.Base(name)}, nil
}

// Lstat is Stat that does not follow a symbolic link at the end of name.
func (o *OverlayFS) Lstat(name string) (fs.FileInfo, error) {
	p, err := o.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return p.info, nil
}

// ReadLink returns the target of a symbolic link.
func (o *OverlayFS) ReadLink(name string) (string, error) {
	p, err := o.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if p.info.Mode()&fs.ModeSymlink == 0 {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return fs.ReadLink(p.layers[0], p.name)
}

// ReadDir returns a directory's merged entries in the order of their names.
func (o *OverlayFS) ReadDir(name string) ([]fs.DirEntry, error) {
	p, err := o.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !p.info.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errNotDir}
	}
	return p.readDir()
}

func (p *place) readDir() ([]fs.DirEntry, error) {
	var list []fs.DirEntry
	said := map[string]bool{} // names that a higher layer has or hides
	for _, layer := range p.layers {
		entries, err := fs.ReadDir(layer, p.name)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if said[e.Name()] {
				continue
			}
			said[e.Name()] = true
			if e.Type()&fs.ModeCharDevice != 0 {
				info, err := e.Info()
				if err != nil {
					return nil, err
				}
				if isWhiteout(info) {
					continue
				}
			}
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

type overlayDir struct {
	place *place
	base  string
	path  string
	list  []fs.DirEntry
	begun bool
}

func (d *overlayDir) Stat() (fs.FileInfo, error) { return &renamedInfo{d.place.info, d.base}, nil }
func (d *overlayDir) Close() error               { return nil }
func (d *overlayDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.path, Err: errIsDir}
}

func (d *overlayDir) ReadDir(count int) ([]fs.DirEntry, error) {
	if !d.begun {
		var err error
		if d.list, err = d.place.readDir(); err != nil {
			return nil, err
		}
		d.begun = true
	}
	return takeEntries(&d.list, count)
}

// A file opened through a symbolic link has the link's name.
type renamedInfo struct {
	fs.FileInfo
	name string
}

func (i *renamedInfo) Name() string { return i.name }

type renamedFile struct {
	fs.File
	name string
}

func (f *renamedFile) Stat() (fs.FileInfo, error) {
	i, err := f.File.Stat()
	if err != nil {
		return nil, err
	}
	return &renamedInfo{i, f.name}, nil
}

// renamed keeps the abilities of an image's file.
func renamed(f fs.File, name string) fs.File {
	r := &renamedFile{f, name}
	if random, ok := f.(randomFile); ok {
		return &struct {
			*renamedFile
			io.ReaderAt
			io.Seeker
		}{r, random, random}
	}
	return r
}

type randomFile interface {
	io.ReaderAt
	io.Seeker
}
