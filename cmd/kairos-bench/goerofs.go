package main

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	goerofs "github.com/erofs/go-erofs"
)

// goErofs makes an image with go-erofs, the other EROFS writer in Go: files, folders, links,
// owners and times; what it cannot express is left out.
func goErofs(args []string) (err error) {
	if len(args) != 2 {
		return errors.New("usage: kairos-bench go-erofs TAR IMAGE")
	}
	in, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(args[1])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := goerofs.Create(out)
	for tr := tar.NewReader(in); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return w.Close()
		}
		if err != nil {
			return err
		}
		name := path.Join("/", h.Name)
		if name == "/" {
			continue
		}
		perm := fs.FileMode(h.Mode & 0o777)
		switch h.Typeflag {
		case tar.TypeDir:
			err = w.Mkdir(name, perm)
		case tar.TypeSymlink:
			err = w.Symlink(h.Linkname, name)
		case tar.TypeLink:
			// It has none.
			continue
		case tar.TypeReg:
			var f *goerofs.File
			if f, err = w.Create(name); err != nil {
				return err
			}
			if _, err = io.Copy(f, tr); err != nil {
				return err
			}
			err = f.Close()
		default:
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(w.Chmod(name, perm), w.Chown(name, h.Uid, h.Gid),
			w.Chtimes(name, h.ModTime, h.ModTime)); err != nil {
			return err
		}
	}
}
