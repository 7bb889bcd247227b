package packages

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// A Search looks for the databases of an image in its layers, the highest first.
type Search struct {
	found   map[string][]byte
	decided map[string]bool // found, or hidden from the layers that follow
}

// names are all paths that are looked for.
func names() (all []string) {
	for _, d := range Databases() {
		all = append(all, d.Path)
	}
	return all
}

// Layer looks into a layer's tree.
func (s *Search) Layer(tree fs.FS) error {
	for _, name := range s.open() {
		b, state, err := look(tree, name)
		if err != nil {
			return err
		}
		s.decide(name, b, state)
	}
	return nil
}

// Tar looks into a layer that is not in the store.
func (s *Search) Tar(r io.Reader) error {
	open := s.open()
	found, hidden := map[string][]byte{}, map[string]bool{}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		for _, want := range open {
			switch {
			case name == want && h.Typeflag == tar.TypeReg:
				if h.Size > MaxSize {
					return fmt.Errorf("%s: %d bytes, more than %d", name, h.Size, MaxSize)
				}
				if found[want], err = io.ReadAll(t); err != nil {
					return err
				}
			case hides(name, want):
				hidden[want] = true
			}
		}
	}
	for _, name := range open {
		switch b, ok := found[name]; {
		case ok:
			s.decide(name, b, present)
		case hidden[name]:
			s.decide(name, nil, gone)
		}
	}
	return nil
}

// hides says whether an entry of a layer removes what the layers below have at a path: by a whiteout of it or of a
// directory above it, or by an opaque directory (OCI image specification, layer.md).
func hides(entry, name string) bool {
	dir, base := path.Split(entry)
	rest, ok := strings.CutPrefix(base, ".wh.")
	if !ok {
		return false
	}
	if rest == ".wh..opq" {
		return strings.HasPrefix(name, dir)
	}
	removed := dir + rest
	return name == removed || strings.HasPrefix(name, removed+"/")
}

// open are the paths that nothing is known of yet.
func (s *Search) open() []string {
	return slices.DeleteFunc(names(), func(name string) bool { return s.decided[name] })
}

func (s *Search) decide(name string, b []byte, state state) {
	if s.found == nil {
		s.found, s.decided = map[string][]byte{}, map[string]bool{}
	}
	if state != absent {
		s.decided[name] = true
	}
	if state == present {
		s.found[name] = b
	}
}

// Packages returns what was found; nil without an error: there was no database in the layers that were looked into.
func (s *Search) Packages() (all Packages, err error) {
	for _, d := range Databases() {
		if b, ok := s.found[d.Path]; ok {
			return d.Parse(b)
		}
	}
	return nil, nil
}

// state is what a layer says of a path.
type state int

const (
	absent state = iota
	present
	gone // and not in the layers below either
)

// look looks a file up in one layer's tree, whose whiteouts and opaque directories are those of overlayfs.
func look(tree fs.FS, name string) ([]byte, state, error) {
	below := absent
	for i, c := range name + "/" {
		if c != '/' {
			continue
		}
		at := name[:i]
		info, err := fs.Lstat(tree, at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, below, nil
		}
		if err != nil {
			return nil, absent, err
		}
		st, _ := info.Sys().(*erofs.Stat)
		switch {
		case st != nil && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0:
			return nil, gone, nil
		case at == name && info.Mode().IsRegular():
			b, err := bounded.ReadFile(tree, name, MaxSize)
			return b, present, err
		case !info.IsDir():
			return nil, gone, nil
		case st != nil && string(st.Xattrs["trusted.overlay.opaque"]) == "y":
			below = gone
		}
	}
	return nil, below, nil
}
