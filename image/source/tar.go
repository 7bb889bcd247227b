package source

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// maxEntries bounds the entries of an archive: an image has two for each layer, and few others.
const maxEntries = 1 << 16

// archive is an open file, which tar.Reader seeks in.
type archive interface {
	io.ReadSeeker
	io.ReaderAt
}

// tarTree shows the regular files of a tar, and its links to them, without unpacking it.
func tarTree(f archive) (fs.FS, error) {
	tree := tarFS{file: f, entries: map[string]tarEntry{}, links: map[string]string{}}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return tree, nil
		}
		if err != nil {
			return nil, err
		}
		if len(tree.entries)+len(tree.links) >= maxEntries {
			return nil, fmt.Errorf("it has more than %d entries", maxEntries)
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "/"))
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			delete(tree.links, name)
			tree.entries[name] = tarEntry{info: h.FileInfo(), at: at, size: h.Size}
		case tar.TypeSymlink: // docker save links layers that are equal
			tree.link(name, path.Join(path.Dir(name), h.Linkname))
		case tar.TypeLink:
			tree.link(name, path.Clean(strings.TrimPrefix(h.Linkname, "/")))
		}
	}
}

// tarFS is a tar as a tree. A later entry takes the place of an earlier one of its name.
type tarFS struct {
	file    io.ReaderAt
	entries map[string]tarEntry
	links   map[string]string // to names in the archive, maybe later ones
}

func (t tarFS) link(name, to string) {
	delete(t.entries, name)
	t.links[name] = to
}

type tarEntry struct {
	info     fs.FileInfo
	at, size int64
}

func (t tarFS) Open(name string) (fs.File, error) {
	target := name
	for range 8 { // links to links, but not without an end
		if e, ok := t.entries[target]; ok {
			return tarFile{io.NewSectionReader(t.file, e.at, e.size), e.info}, nil
		}
		next, ok := t.links[target]
		if !ok {
			break
		}
		target = next
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

type tarFile struct {
	*io.SectionReader
	info fs.FileInfo
}

func (f tarFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f tarFile) Close() error               { return nil }
