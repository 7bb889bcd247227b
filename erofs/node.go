package erofs

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// node is one inode of the image being made. Hard links are directory entries that
// share a node.
type node struct {
	size     int64 // bytes of data; of a directory once it is planned
	mtime    int64
	nsec     uint32
	uid, gid uint32
	rdev     uint32
	nlink    uint32
	mode     uint16
	compact  bool // has the 32-byte form of inode
	fullMap  bool // has the full form of block map
	whiteout bool // hides the name in the layers below
	opaque   bool // directory that hides what the layers below have in it
	implied  bool // directory that the archive does not name, but something in it

	xattrs  string           // encoded, see encodeXattrs
	target  string           // of a symbolic link
	data    *fileData        // of a regular file with content
	entries map[string]*node // of a directory, until it is planned
	dirents []dirent         // of a directory, once it is planned

	nid   uint32 // unit of the metadata area
	start uint32 // first block of a directory's or symbolic link's content
	tail  uint16 // bytes of a directory's or symbolic link's content that are inline
}

type dirent struct {
	name string
	node *node
}

func (n *node) isDir() bool     { return n.mode&modeType == modeDir }
func (n *node) isSymlink() bool { return n.mode&modeType == modeSymlink }
func (n *node) isRegular() bool { return n.mode&modeType == modeRegular }

func newDir() *node {
	return &node{mode: modeDir | 0o755, entries: map[string]*node{}}
}

// errEscapes is what a path gets that leads out of the root.
var errEscapes = errors.New("path leads out of the layer")

// errOtherLayer is what a hard link gets to a file of a layer below, which a layer's image cannot share.
var errOtherLayer = errors.New("it is not in this layer: build the image with a builder that puts both names " +
	"into one layer, such as BuildKit, or copy the file")

// maxLinks is how many symbolic links one path may lead through, as in the kernel.
const maxLinks = 40

// tree is the layer's directory tree.
type tree struct {
	root *node
}

// locate resolves a path to the directory that holds it and its last name, which is ""
// for the root. Symbolic links of the layer that stand for directories on the way are
// followed, inside the layer. With create, missing directories are made.
func (t *tree) locate(path string, create bool) (dir *node, base string, err error) {
	rest, err := splitPath(path)
	if err != nil || len(rest) == 0 {
		return t.root, "", err
	}
	base = rest[len(rest)-1]
	rest = rest[:len(rest)-1]
	up := []*node{t.root} // the way from the root
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		dir := up[len(up)-1]
		if name == "." || name == "" {
			continue
		}
		if name == ".." {
			if len(up) > 1 { // of a symbolic link: ".." of the root is the root
				up = up[:len(up)-1]
			}
			continue
		}
		next := dir.entries[name]
		switch {
		case next == nil || next.whiteout:
			if !create {
				return nil, "", errOtherLayer
			}
			if len(name) > maxName {
				return nil, "", fmt.Errorf("name of %d bytes: want at most %d", len(name), maxName)
			}
			made := newDir()
			made.opaque = next != nil
			made.implied = next == nil // else there is nothing below that it could differ from
			dir.entries[name] = made
			up = append(up, made)
		case next.isDir():
			up = append(up, next)
		case next.isSymlink():
			if links++; links > maxLinks {
				return nil, "", fmt.Errorf("more than %d symbolic links", maxLinks)
			}
			if strings.HasPrefix(next.target, "/") {
				up = up[:1]
			}
			rest = append(strings.Split(next.target, "/"), rest...)
		default:
			return nil, "", fmt.Errorf("%q is not a directory", name)
		}
	}
	return up[len(up)-1], base, nil
}

// splitPath returns a member name's components. A name may begin with "/", which means
// the layer's root, and contain "..", as long as it stays inside.
func splitPath(path string) ([]string, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return nil, errors.New("name contains NUL")
	}
	var parts []string
	for p := range strings.SplitSeq(path, "/") {
		switch p {
		case "", ".":
		case "..":
			if len(parts) == 0 {
				return nil, errEscapes
			}
			parts = parts[:len(parts)-1]
		default:
			parts = append(parts, p)
		}
	}
	return parts, nil
}

// add puts a node at a path. What was there before goes, except that a directory keeps
// its entries when it is named again.
func (t *tree) add(path string, n *node) error {
	dir, base, err := t.locate(path, true)
	if err != nil {
		return err
	}
	if base == "" {
		if !n.isDir() {
			return errors.New("the root must be a directory")
		}
		n.opaque = n.opaque || t.root.opaque
		n.entries = t.root.entries
		*t.root = *n
		return nil
	}
	if len(base) > maxName {
		return fmt.Errorf("name of %d bytes: want at most %d", len(base), maxName)
	}
	old := dir.entries[base]
	switch {
	case old == nil:
	case n.whiteout && !old.whiteout:
		// A whiteout speaks of the layers below, so what this layer has stays.
		old.opaque = old.isDir()
		return nil
	case old.whiteout && n.isDir():
		n.opaque = true
	case old.isDir() && n.isDir():
		entries, opaque := old.entries, old.opaque || n.opaque
		*old = *n
		old.entries, old.opaque = entries, opaque
		return nil
	}
	dir.entries[base] = n
	return nil
}

// link adds a hard link to a path that the layer has already.
func (t *tree) link(path, target string) error {
	dir, base, err := t.locate(target, false)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	n := dir.entries[base]
	if n == nil || n.whiteout {
		return fmt.Errorf("hard link to %q: %w", target, errOtherLayer)
	}
	if n.isDir() {
		return fmt.Errorf("hard link to %q: it is a directory", target)
	}
	return t.add(path, n)
}

// plan fixes the entries' order, counts links and returns every inode once: breadth
// first, so that what one directory holds lies side by side.
func (t *tree) plan() []*node {
	t.root.dirents = []dirent{{"..", t.root}}
	nodes := []*node{t.root}
	for i := 0; i < len(nodes); i++ {
		n := nodes[i]
		if !n.isDir() {
			continue
		}
		// dirents has ".." already.
		n.nlink += 2
		children := make([]dirent, 0, len(n.entries)+2)
		for name, child := range n.entries {
			children = append(children, dirent{name, child})
		}
		n.entries = nil
		byName := func(a, b dirent) int { return cmp.Compare(a.name, b.name) }
		slices.SortFunc(children, byName)
		for _, e := range children {
			if e.node.isDir() {
				n.nlink++
				e.node.dirents = []dirent{{"..", n}}
				nodes = append(nodes, e.node)
			} else if e.node.nlink++; e.node.nlink == 1 {
				nodes = append(nodes, e.node)
			}
		}
		// "." and ".." are entries like others and have no place of their own: the
		// kernel searches for them, too, in byte order.
		n.dirents = append(children, dirent{".", n}, n.dirents[0])
		slices.SortFunc(n.dirents, byName)
	}
	return nodes
}
