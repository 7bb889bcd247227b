package diff

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/image/packages"
	"github.com/kairos-buildkit/kairos/layout"
)

// node is what stacked layers have at a path. Without a file it is a directory that no layer names.
type node struct {
	*file
	children map[string]*node
}

func (n *node) isDir() bool { return n.file == nil || n.mode.IsDir() }

// at returns what is at a path, made where it is missing and make is set; nil without.
func (n *node) at(name string, make bool) *node {
	if name == "." || name == "" {
		return n
	}
	for part := range strings.SplitSeq(name, "/") {
		if make && !n.isDir() {
			n.file = nil
		}
		next := n.children[part]
		if next == nil {
			if !make {
				return nil
			}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			next = &node{}
			n.children[part] = next
		}
		n = next
	}
	return n
}

// add puts a layer on top. What it removes is of the layers below it.
func (n *node) add(l *layer) {
	for _, name := range l.opaque {
		if d := n.at(name, false); d != nil {
			d.children = nil
		}
	}
	for _, name := range l.removed {
		dir, base := "", name
		if i := strings.LastIndexByte(name, '/'); i >= 0 {
			dir, base = name[:i], name[i+1:]
		}
		if d := n.at(dir, false); d != nil {
			delete(d.children, base)
		}
	}
	for _, e := range l.entries {
		f := e.file
		if f == nil { // a hard link to a file of a lower layer
			target := n.at(e.hard, false)
			if target == nil || target.file == nil {
				continue // a link to nothing: such an image does not boot anyway
			}
			f = target.file
		}
		at := n.at(e.path, true)
		if !f.mode.IsDir() || !at.isDir() {
			at.children = nil
		}
		at.file = f
	}
}

// compare lists what differs between two trees, by path.
func compare(ctx context.Context, a, b *node) (all []api.FileDifference, err error) {
	var walk func(dir string, a, b *node) error
	walk = func(dir string, a, b *node) error {
		names := maps.Clone(a.children)
		if names == nil {
			names = map[string]*node{}
		}
		maps.Copy(names, b.children)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			x, y := a.children[name], b.children[name]
			d := api.FileDifference{Path: dir + name, Before: x.bytes(), After: y.bytes()}
			switch {
			case x == nil:
				d.Change = api.FileAdded
			case y == nil:
				d.Change = api.FileRemoved
			default:
				if d.Change, err = change(x, y); err != nil {
					return err
				}
			}
			if d.Change != "" {
				all = append(all, d)
			}
			if x == nil {
				x = &node{}
			}
			if y == nil {
				y = &node{}
			}
			if err := walk(dir+name+"/", x, y); err != nil {
				return err
			}
		}
		return nil
	}
	return all, walk("", a, b)
}

func (n *node) bytes() int64 {
	if n == nil || n.file == nil {
		return 0
	}
	return n.size
}

// change says how two files differ; "" not at all.
func change(x, y *node) (string, error) {
	a, b := x.file, y.file
	switch {
	case a == b:
		return "", nil
	case a == nil || b == nil: // directories that no layer names have root's attributes
		if !x.isDir() || !y.isDir() {
			return api.FileChanged, nil
		}
		implied := &file{mode: fs.ModeDir | 0o755}
		if a == nil {
			a = implied
		}
		if b == nil {
			b = implied
		}
	}
	if a.mode.Type() != b.mode.Type() || a.size != b.size || a.link != b.link || a.rdev != b.rdev {
		return api.FileChanged, nil
	}
	if a.mode.IsRegular() {
		p, err := a.digest()
		if err != nil {
			return "", err
		}
		q, err := b.digest()
		if err != nil {
			return "", err
		}
		if p != q {
			return api.FileChanged, nil
		}
	}
	if a.mode != b.mode || a.uid != b.uid || a.gid != b.gid || a.caps != b.caps {
		return api.FileAttributes, nil
	}
	return "", nil
}

// bootOf returns the version of an image's kernel and its command line, as its boot layer says them.
func bootOf(root *node) (map[string]string, error) {
	at := root.at(layout.ImageBootManifest, false)
	if at == nil || at.file == nil || at.content == nil {
		return nil, nil
	}
	m, err := boot.ParseManifest(at.content)
	return map[string]string{"kernel": m.Kernel.Version, "cmdline": m.Cmdline}, err
}

// packagesOf returns which packages an image has; unknown says why they are not known.
func packagesOf(root *node) (all packages.Packages, unknown string) {
	for _, d := range packages.Databases() {
		if at := root.at(d.Path, false); at != nil && at.file != nil && at.mode.IsRegular() {
			all, err := d.Parse(at.content)
			if err != nil {
				return nil, fmt.Sprintf("/%s: %v", d.Path, err)
			}
			return all, ""
		}
	}
	return nil, packages.None
}
