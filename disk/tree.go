package disk

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// File is one file or folder of a file system that is being made. Folders above it are made
// as needed. Its owner is root.
type File struct {
	// Path is the file's name, slash-separated, without a leading slash.
	Path string
	// Mode has the permissions where the file system keeps them; zero is 0644, or 0755 with
	// fs.ModeDir. Types other than folders and regular files are refused.
	Mode fs.FileMode
	// Size is the file's size in bytes. Open has to deliver exactly that many.
	Size int64
	// Open is called once, when the file's content is written.
	Open func() (io.ReadCloser, error)
}

// Bytes returns a file with content in memory.
func Bytes(name string, b []byte) File {
	return File{Path: name, Size: int64(len(b)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b)), nil
	}}
}

func (f File) extent() extent { return extent{size: f.Size, name: f.Path, open: f.Open} }

// node is a file or folder in its place.
type node struct {
	File
	name     string
	parent   *node
	children []*node // sorted by name
}

func (n *node) dir() bool { return n.Mode.IsDir() }

// path names the node in errors.
func (n *node) path() string {
	if n.parent == nil {
		return "/"
	}
	return n.Path
}

// subdirs counts the folders in a folder.
func (n *node) subdirs() int {
	count := 0
	for _, c := range n.children {
		if c.dir() {
			count++
		}
	}
	return count
}

// tree puts files in their folders.
func tree(files []File) (*node, error) {
	root := &node{File: File{Path: ".", Mode: fs.ModeDir | 0o755}}
	dirs := map[string]*node{".": root}
	var mkdir func(name string) (*node, error)
	mkdir = func(name string) (*node, error) {
		if d, ok := dirs[name]; ok {
			if !d.dir() {
				return nil, fmt.Errorf("%s is both a file and a folder", name)
			}
			return d, nil
		}
		parent, err := mkdir(path.Dir(name))
		if err != nil {
			return nil, err
		}
		d := &node{File: File{Path: name, Mode: fs.ModeDir | 0o755}, name: path.Base(name), parent: parent}
		parent.children = append(parent.children, d)
		dirs[name] = d
		return d, nil
	}
	for _, f := range files {
		if !fs.ValidPath(f.Path) || f.Path == "." {
			return nil, fmt.Errorf("file name %q is not a relative path in its plain form", f.Path)
		}
		if f.Mode.Type()&^fs.ModeDir != 0 || f.Size < 0 || (f.Size > 0 && (f.Open == nil || f.Mode.IsDir())) {
			return nil, fmt.Errorf(
				"%s: mode %v and size %d: want a folder, or a file with content",
				f.Path,
				f.Mode,
				f.Size,
			)
		}
		if f.Mode.IsDir() {
			d, err := mkdir(f.Path)
			if err != nil {
				return nil, err
			}
			if f.Mode.Perm() != 0 {
				d.Mode = f.Mode
			}
			continue
		}
		if dirs[f.Path] != nil {
			return nil, fmt.Errorf("%s is there twice", f.Path)
		}
		parent, err := mkdir(path.Dir(f.Path))
		if err != nil {
			return nil, err
		}
		if f.Mode == 0 {
			f.Mode = 0o644
		}
		n := &node{File: f, name: path.Base(f.Path), parent: parent}
		dirs[f.Path] = n
		parent.children = append(parent.children, n)
	}
	root.walk(func(n *node) {
		slices.SortFunc(n.children, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	})
	return root, nil
}

// walk calls f for n and all below it, folders before their content.
func (n *node) walk(f func(*node)) {
	f(n)
	for _, c := range n.children {
		c.walk(f)
	}
}
