package erofs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/internal/filemode"
)

// A layer may name var/tmp/x and neither var nor var/tmp. Its image has to have these directories,
// and overlayfs takes a directory's mode and owner from the highest layer: so such an implied
// directory would change them. Which ones are implied is marked in the image, by attributes that
// nothing but FixUp reads; a layer that names its directories, as those of container builders do,
// has no marks.
var (
	impliedXattr    = xattr{index: 4, name: "kairos.implied", value: "y"}  // on such a directory
	hasImpliedXattr = xattr{index: 4, name: "kairos.implied", value: "in"} // on the root of a layer with some
)

const impliedName = "trusted.kairos.implied"

func impliedMark(i fs.FileInfo) string {
	if s, ok := i.Sys().(*Stat); ok {
		return string(s.Xattrs[impliedName])
	}
	return ""
}

// FixUp returns the tar of a layer that goes on top of layers, the lowest first, so that their
// merged tree is the one that a container engine makes by extracting one after the other:
// directories that a layer implies have the mode, owner, time and attributes that the layers
// below it give them. It is nil where nothing is to be set right, as with nearly all images.
//
// Equal layers give an equal tar. Layers that an engine would extract through a symbolic link of a
// layer below (lib/x, where lib is a link) are refused: their images have the file elsewhere.
func FixUp(lowestFirst ...fs.FS) ([]byte, error) {
	wrong := map[string]bool{}
	for i, layer := range lowestFirst {
		root, err := fs.Lstat(layer, ".")
		if err != nil {
			return nil, err
		}
		if i == 0 || impliedMark(root) == "" {
			continue
		}
		if err := implied(layer, Overlay(lowestFirst[:i]...), wrong); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	merged := Overlay(lowestFirst...)
	set := map[string]fs.FileInfo{}
	for name := range wrong {
		p, err := merged.step(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !p.isDir() {
			continue // a higher layer has another opinion
		}
		if err != nil {
			return nil, err
		}
		if impliedMark(p.info) != "y" {
			continue // a higher layer names it
		}
		for dir := name; dir != "."; dir = path.Dir(dir) {
			if set[dir], err = merged.named(dir); err != nil {
				return nil, err
			}
		}
	}
	if len(set) == 0 {
		return nil, nil
	}
	return fixUpTar(set)
}

// implied adds to wrong the directories that a layer implies and that the layers below have.
func implied(layer fs.FS, below *OverlayFS, wrong map[string]bool) error {
	return fs.WalkDir(layer, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil || impliedMark(info) != "y" || isOpaque(info) {
			return err
		}
		p, err := below.step(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case p.isSymlink():
			target, err := p.readlink()
			if err != nil {
				return err
			}
			return fmt.Errorf("it has files below /%s, which is a link to %s in a layer below it: "+
				"build it so that they are where the link leads, or with folders as entries of its tar", name, target)
		case !p.isDir():
			return fmt.Errorf("it has files below /%s, which is a file in a layer below it", name)
		}
		wrong[name] = true
		return nil
	})
}

// step looks a name up without following links, those on the way included: there is nothing
// below a link.
func (o *OverlayFS) step(name string) (*place, error) {
	p, err := merge(o.layers, ".")
	for _, part := range strings.Split(name, "/") {
		if err != nil {
			return nil, err
		}
		if !p.isDir() {
			return nil, fs.ErrNotExist
		}
		p, err = p.child(part)
	}
	return p, err
}

// named returns what the highest layer says of a directory that names it.
func (o *OverlayFS) named(name string) (fs.FileInfo, error) {
	p, err := o.step(name)
	if err != nil {
		return nil, err
	}
	for _, layer := range p.layers {
		info, err := fs.Lstat(layer, p.name)
		if err != nil {
			return nil, err
		}
		if impliedMark(info) != "y" {
			return info, nil
		}
	}
	return p.info, nil
}

// fixUpTar writes directories, each before those in it.
func fixUpTar(dirs map[string]fs.FileInfo) ([]byte, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(dirs)) {
		info := dirs[name]
		s := info.Sys().(*Stat)
		h := &tar.Header{
			Typeflag: tar.TypeDir, Name: name + "/", Mode: int64(filemode.ToUnix(info.Mode())),
			Uid: int(s.UID), Gid: int(s.GID),
			ModTime: info.ModTime().UTC(), Format: tar.FormatPAX, PAXRecords: map[string]string{},
		}
		if impliedMark(info) == "y" {
			h.ModTime = time.Unix(0, 0).UTC()
		}
		for key, value := range s.Xattrs {
			if key != impliedName && key != "trusted.overlay.opaque" {
				h.PAXRecords["SCHILY.xattr."+key] = string(value)
			}
		}
		if err := t.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("/%s: %w", name, err)
		}
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
