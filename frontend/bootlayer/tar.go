package bootlayer

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"path"

	"github.com/kairos-buildkit/kairos/internal/filemode"
)

// WriteTar writes the layer as the tar of an image layer on top of root. Folders that root
// has keep their mode.
func (l *Layer) WriteTar(w io.Writer, root fs.FS) error {
	t := tar.NewWriter(w)
	for _, dir := range l.above() {
		mode := fs.FileMode(0o755)
		info, err := fs.Stat(root, dir)
		if err == nil {
			mode = info.Mode()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := t.WriteHeader(&tar.Header{
			Typeflag: tar.TypeDir,
			Name:     dir + "/",
			Mode:     int64(filemode.ToUnix(mode)),
			ModTime:  Time,
		}); err != nil {
			return err
		}
	}
	for _, f := range l.Files {
		h := &tar.Header{
			Typeflag: tar.TypeReg,
			Name:     f.Path,
			Mode:     int64(filemode.ToUnix(f.Mode)),
			Size:     int64(len(f.Data)),
			ModTime:  Time,
		}
		switch {
		case f.Removed:
			h.Name = path.Join(path.Dir(f.Path), ".wh."+path.Base(f.Path)) // OCI image-spec, layer.md: a whiteout
		case f.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		case f.Mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, f.Path+"/"
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(f.Data); err != nil {
			return err
		}
	}
	return t.Close()
}
