package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/durable"
)

// persistEngine keeps a folder of a container engine: what the image has there is copied once, and again when an image
// has something else; what the engine has put beside it stays.
func (p *policy) persistEngine(at, upper, work string) error {
	target := sysroot + at
	if err := makeUpper(target, upper); err != nil {
		return err
	}
	if err := seed(inImage(at), upper, work, p.boot.Release); err != nil {
		p.problem(fmt.Errorf("%s lacks something that the image has there: %w", at, err))
	}
	return bind(upper, target)
}

// seed copies an image's folder to where it is kept. work is the work folder of an overlay, which the folder was in
// earlier versions of ours; beside it is noted what was copied.
func seed(image, upper, work, release string) error {
	wasOverlay, note := isDir(work), work+".seed"
	if isEmpty(image) && !wasOverlay {
		return nil
	}
	have, _ := os.ReadFile(note)
	from, digest, _ := strings.Cut(strings.TrimSpace(string(have)), " ")
	if from != release || digest == "" {
		now, err := treeDigest(image)
		if err != nil {
			return err
		}
		if now != digest {
			how := replace
			if wasOverlay {
				how = keep // what was in the overlay's upper layer hid what the image has
			}
			if err := copyTree(image, upper, how); err != nil {
				return err
			}
			if err := syncFS(upper); err != nil {
				return err
			}
		}
		if err := (*durable.FS)(nil).WriteFile(note, []byte(release+" "+now+"\n"), 0o600); err != nil {
			return err
		}
	}
	if !wasOverlay {
		return nil
	}
	// Only now: until the note was written, an interrupted copy begins again, and must find what is not to be copied.
	if err := removeWhiteouts(upper); err != nil {
		return err
	}
	return os.RemoveAll(work)
}

// how says which of two files stays.
type how int

const (
	replace how = iota // the image's
	keep               // the node's
)

// copyTree copies what is in a folder. Files appear whole.
func copyTree(from, to string, how how) error {
	if from == "" {
		return nil
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		src, dst := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		there, err := os.Lstat(dst)
		switch {
		case err != nil && !os.IsNotExist(err):
			return err
		case err == nil && e.IsDir() && there.IsDir():
			if how == keep && isOpaque(dst) {
				continue
			}
			if err := copyTree(src, dst, how); err != nil {
				return err
			}
			continue
		case err == nil && (how == keep || e.IsDir() || there.IsDir()):
			continue // a folder that the node has there may hold data
		}
		if err := copyEntry(src, dst, e, how); err != nil {
			return fmt.Errorf("copy %s: %w", src, err)
		}
	}
	return nil
}

func copyEntry(src, dst string, e fs.DirEntry, how how) error {
	if e.IsDir() {
		if err := os.Mkdir(dst, 0o700); err != nil {
			return err
		}
		return errors.Join(copyTree(src, dst, how), copyAttributes(src, dst))
	}
	temp := filepath.Join(filepath.Dir(dst), durable.TempPrefix+"kairos-seed")
	if err := os.Remove(temp); err != nil && !os.IsNotExist(err) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(src, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		if err := errors.Join(os.Symlink(target, temp), os.Lchown(temp, int(st.Uid), int(st.Gid))); err != nil {
			return err
		}
	case unix.S_IFREG:
		if err := errors.Join(copyFile(src, temp), copyAttributes(src, temp)); err != nil {
			return err
		}
	case unix.S_IFSOCK:
		return nil // of a program that does not run
	default:
		if err := errors.Join(unix.Mknod(temp, st.Mode, int(st.Rdev)), copyAttributes(src, temp)); err != nil {
			return err
		}
	}
	return os.Rename(temp, dst)
}

func copyFile(src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// treeDigest is equal for folders with equal content.
func treeDigest(dir string) (string, error) {
	h := sha256.New()
	if dir == "" {
		return hex.EncodeToString(h.Sum(nil)), nil
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %o %d %d %d ", strings.TrimPrefix(path, dir), st.Mode, st.Uid, st.Gid, st.Rdev)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			fmt.Fprintf(h, "%q", target)
			return err
		case unix.S_IFREG:
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			fmt.Fprintf(h, "%d ", st.Size)
			_, err = io.Copy(h, f)
			return err
		}
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// Marks of an overlay's upper layer (kernel documentation: overlayfs, whiteouts and opaque directories).

func isWhiteout(path string, e fs.DirEntry) bool {
	var st unix.Stat_t
	return e.Type()&fs.ModeCharDevice != 0 && unix.Lstat(path, &st) == nil && st.Rdev == 0
}

func isOpaque(dir string) bool {
	value := make([]byte, 1)
	n, err := unix.Lgetxattr(dir, "trusted.overlay.opaque", value)
	return err == nil && n == 1 && value[0] == 'y'
}

func removeWhiteouts(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			if err := unix.Lremovexattr(path, "trusted.overlay.opaque"); err != nil && !errors.Is(err, unix.ENODATA) &&
				!errors.Is(err, unix.EPERM) {
				return fmt.Errorf("%s: %w", path, err)
			}
			return nil
		case isWhiteout(path, e):
			return os.Remove(path)
		}
		return nil
	})
}

func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}
