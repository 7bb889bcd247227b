package source

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/image"
)

// openDirectory makes an image of one layer of a root file system in a folder. Its config has
// nothing that the folder does not determine, so that the same folder gives the same release.
func openDirectory(ctx context.Context, dir string, o opening) (*Image, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a folder", dir)
	}
	sum := sha256.New()
	size := &counter{}
	if err := writeTar(ctx, io.MultiWriter(sum, size), dir); err != nil {
		return nil, err
	}
	// The variant is that of the machine, not of the files.
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: o.image.Platform.OS, Architecture: o.image.Platform.Architecture},
	}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.NewDigest(digest.SHA256, sum)}}
	b, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	img, err := image.New(
		b,
		[]image.StoredLayer{{Size: size.n, Open: func(ctx context.Context) (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() { w.CloseWithError(writeTar(ctx, w, dir)) }()
			return r, nil
		}}},
		o.image,
	)
	if err != nil {
		return nil, err
	}
	return &Image{Image: *img}, nil
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

// writeTar writes a folder as a layer: ordered by name, all that the kernel keeps of a file.
func writeTar(ctx context.Context, w io.Writer, dir string) error {
	t := tar.NewWriter(w)
	links := map[[2]uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return writeFile(t, path, filepath.ToSlash(name), info, links)
	})
	if err != nil {
		return err
	}
	return t.Close()
}

func writeFile(t *tar.Writer, path, name string, info fs.FileInfo, links map[[2]uint64]string) error {
	if info.Mode()&fs.ModeSocket != 0 {
		return nil // tar has none, and nobody listens
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	h.Name, h.Uname, h.Gname, h.Format = name, "", "", tar.FormatPAX
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{} // they change when the folder is read or copied
	if info.IsDir() {
		h.Name += "/"
	}
	st := info.Sys().(*syscall.Stat_t)
	if id := [2]uint64{uint64(st.Dev), st.Ino}; info.Mode().IsRegular() && st.Nlink > 1 {
		if first := links[id]; first != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			links[id] = name
		}
	}
	if err := addXattrs(h, path); err != nil {
		return err
	}
	if err := t.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(t, f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func addXattrs(h *tar.Header, path string) error {
	size, err := unix.Llistxattr(path, nil)
	if errors.Is(err, unix.ENOTSUP) || size == 0 && err == nil {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "llistxattr", Path: path, Err: err}
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(path, names); err != nil {
		return &fs.PathError{Op: "llistxattr", Path: path, Err: err}
	}
	for _, name := range strings.FieldsFunc(string(names[:size]), func(r rune) bool { return r == 0 }) {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return &fs.PathError{Op: "lgetxattr " + name, Path: path, Err: err}
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = string(value[:n])
	}
	return nil
}
