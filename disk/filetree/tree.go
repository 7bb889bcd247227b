// Package filetree is what a file system is made from: files with their content, and the folders that they are in.
package filetree

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/disk/sparse"
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

// Extent is the file's content, for a place in an image.
func (f File) Extent() sparse.Extent { return sparse.Extent{Size: f.Size, Name: f.Path, Open: f.Open} }

// Node is a file or folder in its place.
type Node struct {
	File
	Name     string  // the last part of Path
	Parent   *Node   // nil: it is the root
	Children []*Node // sorted by name
}

// IsDir says whether it is a folder.
func (n *Node) IsDir() bool { return n.Mode.IsDir() }

// String names the node in errors.
func (n *Node) String() string {
	if n.Parent == nil {
		return "/"
	}
	return n.Path
}

// Subdirs counts the folders in a folder.
func (n *Node) Subdirs() int {
	count := 0
	for _, c := range n.Children {
		if c.IsDir() {
			count++
		}
	}
	return count
}

// New puts files in their folders, and returns the root. Names that are no relative paths in their plain form, that
// are there twice or that are both a file and a folder are refused, and so is what is neither.
func New(files []File) (*Node, error) {
	root := &Node{File: File{Path: ".", Mode: fs.ModeDir | 0o755}}
	dirs := map[string]*Node{".": root}
	var mkdir func(name string) (*Node, error)
	mkdir = func(name string) (*Node, error) {
		if d, ok := dirs[name]; ok {
			if !d.IsDir() {
				return nil, fmt.Errorf("%s is both a file and a folder", name)
			}
			return d, nil
		}
		parent, err := mkdir(path.Dir(name))
		if err != nil {
			return nil, err
		}
		d := &Node{File: File{Path: name, Mode: fs.ModeDir | 0o755}, Name: path.Base(name), Parent: parent}
		parent.Children = append(parent.Children, d)
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
		n := &Node{File: f, Name: path.Base(f.Path), Parent: parent}
		dirs[f.Path] = n
		parent.Children = append(parent.Children, n)
	}
	root.Walk(func(n *Node) {
		slices.SortFunc(n.Children, func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
	})
	return root, nil
}

// Walk calls f for n and all below it, folders before their content.
func (n *Node) Walk(f func(*Node)) {
	f(n)
	for _, c := range n.Children {
		c.Walk(f)
	}
}
