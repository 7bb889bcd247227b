package diff

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/packages"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// What is kept in memory of all layers.
const (
	maxFiles = 2 << 20   // names with their attributes
	maxKept  = 256 << 20 // bytes of the files that are read, such as package databases
)

// file is what a layer has at a path.
type file struct {
	mode     fs.FileMode
	uid, gid int
	size     int64 // of a regular file
	rdev     uint64
	link     string // a symbolic link's target
	caps     string // security.capability
	sum      [sha256.Size]byte
	content  []byte // of those in kept
	// Of a file in a blob, whose content is read where it is needed:
	tree fs.FS
	name string
}

// entry is one of a layer, in its order.
type entry struct {
	path string
	*file
	hard string // path of the file that a hard link is to, where the layer does not have it
}

// layer is what a layer adds and removes.
type layer struct {
	entries []entry
	removed []string // and what is below
	opaque  []string // directories of which nothing below is seen
}

// reader reads layers, each once.
type reader struct {
	layers map[layout.Digest]*layer
	blobs  []image.Blob
	files  int
	kept   int64
}

// kept are the files that are looked into.
func kept(name string) bool {
	if name == layout.ImageBootManifest {
		return true
	}
	return slices.ContainsFunc(packages.Databases(), func(d packages.Database) bool { return d.Path == name })
}

// stack returns the tree of an image.
func (r *reader) stack(ctx context.Context, s Side, o Options) (*node, error) {
	root := &node{}
	all := s.Image.Layers
	if s.Blobs != nil { // there may be one more, which sets directories right
		all = nil
		for _, b := range s.Blobs {
			all = append(all, image.Layer{DiffID: b.DiffID, Blob: &b})
		}
	}
	for i, l := range all {
		done := func(err error) error { return err }
		if r.layers[l.DiffID] == nil && o.Progress != nil {
			done = o.Progress(fmt.Sprintf("reading layer %d of %d of %s", i+1, len(all), s.Source))
		}
		layer, err := r.read(ctx, l)
		if err := done(err); err != nil {
			return nil, fmt.Errorf("layer %d, %s: %w", i+1, l.DiffID, err)
		}
		root.add(layer)
	}
	return root, nil
}

func (r *reader) read(ctx context.Context, l image.Layer) (_ *layer, err error) {
	if has := r.layers[l.DiffID]; has != nil {
		return has, nil
	}
	for _, b := range r.blobs {
		if b.DiffID == l.DiffID {
			l.Blob = &b
			break
		}
	}
	var read *layer
	if l.Blob != nil {
		read, err = r.blob(ctx, l.Blob)
	} else {
		read, err = r.tar(ctx, l)
	}
	if err == nil {
		r.layers[l.DiffID] = read
	}
	return read, err
}

// count bounds how many files are kept.
func (r *reader) count() error {
	if r.files++; r.files > maxFiles {
		return fmt.Errorf("the images' layers have more than %d files", maxFiles)
	}
	return nil
}

// keep reads a file that is looked into.
func (r *reader) keep(from io.Reader) ([]byte, error) {
	b, err := bounded.ReadAll(from, packages.MaxSize)
	if r.kept += int64(len(b)); err == nil && r.kept > maxKept {
		err = fmt.Errorf("the images' package databases have more than %d MiB", maxKept>>20)
	}
	return b, err
}

// blob reads a layer's blob, every block of which is checked.
func (r *reader) blob(ctx context.Context, b *image.Blob) (*layer, error) {
	data, err := verity.NewReader(b, b.Layer.Size, b.RootHash)
	if err != nil {
		return nil, err
	}
	tree, err := erofs.Open(data)
	if err != nil {
		return nil, err
	}
	l := &layer{}
	err = fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if err := errors.Join(ctx.Err(), r.count()); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := &file{mode: info.Mode()}
		st, ok := info.Sys().(*erofs.Stat)
		if !ok {
			return fmt.Errorf("%s: no attributes", name)
		}
		f.uid, f.gid, f.rdev = int(st.UID), int(st.GID), st.Rdev
		f.caps = string(st.Xattrs["security.capability"])
		switch {
		case f.mode&fs.ModeCharDevice != 0 && st.Rdev == 0:
			l.removed = append(l.removed, name)
			return nil
		case f.mode.IsDir():
			if string(st.Xattrs["trusted.overlay.opaque"]) == "y" {
				l.opaque = append(l.opaque, name)
			}
		case f.mode&fs.ModeSymlink != 0:
			if f.link, err = tree.ReadLink(name); err != nil {
				return err
			}
		case f.mode.IsRegular():
			f.size, f.tree, f.name = info.Size(), tree, name
			if kept(name) {
				if f.content, err = r.open(tree, name); err != nil {
					return err
				}
			}
		}
		l.entries = append(l.entries, entry{path: name, file: f})
		return nil
	})
	return l, err
}

func (r *reader) open(tree fs.FS, name string) ([]byte, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := r.keep(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

// tar reads a layer's tar to its end, where its digest is compared.
func (r *reader) tar(ctx context.Context, from image.Layer) (l *layer, err error) {
	stream, err := from.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	sum := sha256.New()
	tee := io.TeeReader(stream, sum)
	l = &layer{}
	here := map[string]*file{}
	for t := tar.NewReader(tee); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		dir, base := path.Split(name)
		switch rest, white := strings.CutPrefix(base, ".wh."); {
		case name == "":
			continue
		case white && rest == ".wh..opq":
			l.opaque = append(l.opaque, path.Clean(dir))
			continue
		case white:
			l.removed = append(l.removed, dir+rest)
			continue
		}
		if err := r.count(); err != nil {
			return nil, err
		}
		e := entry{path: name}
		if h.Typeflag == tar.TypeLink {
			e.hard = strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
			e.file = here[e.hard]
		} else if e.file, err = r.header(h, name, t); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		here[name] = e.file
		l.entries = append(l.entries, e)
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return nil, err
	}
	if got := fmt.Sprintf("%x", sum.Sum(nil)); got != from.DiffID.Hex() {
		return nil, fmt.Errorf("its content is another one, sha256:%s: it was changed or damaged on its way", got)
	}
	return l, nil
}

func (r *reader) header(h *tar.Header, name string, content io.Reader) (*file, error) {
	f := &file{
		mode: h.FileInfo().Mode(), uid: h.Uid, gid: h.Gid, caps: h.PAXRecords["SCHILY.xattr.security.capability"],
	}
	switch {
	case f.mode&fs.ModeSymlink != 0:
		f.link = h.Linkname
	case f.mode&fs.ModeDevice != 0:
		f.rdev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	case f.mode.IsRegular():
		f.size = h.Size
		sum := sha256.New()
		content = io.TeeReader(content, sum)
		if kept(name) {
			var err error
			if f.content, err = r.keep(content); err != nil {
				return nil, err
			}
		} else if _, err := io.Copy(io.Discard, content); err != nil {
			return nil, err
		}
		sum.Sum(f.sum[:0])
	}
	return f, nil
}

// digest returns the SHA-256 of a regular file's content.
func (f *file) digest() ([sha256.Size]byte, error) {
	if f.tree == nil {
		return f.sum, nil
	}
	from, err := f.tree.Open(f.name)
	if err != nil {
		return f.sum, err
	}
	defer from.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, from); err != nil {
		return f.sum, fmt.Errorf("%s: %w", f.name, err)
	}
	sum.Sum(f.sum[:0])
	f.tree = nil
	return f.sum, nil
}
