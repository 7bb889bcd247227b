// Package tree reads and writes files below a root for root, without ever being led elsewhere by a user.
//
// A path is walked one name at a time, each by openat(2) in the directory before it, so that what is checked is
// what is used. A symbolic link is followed only where nobody but root could have made it: it belongs to root,
// and lies in a directory that root alone can change (or a sticky one). Such a link begins at the root again, as it
// does for a process in there. Below a directory of a user no link is followed at all. Files are replaced by a
// rename of a new file: what had the name, a link, a hard link or a FIFO, is never opened for writing.
package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUntrusted says that the way to a file leads through something that a user may have put there.
var ErrUntrusted = errors.New("a user's link or special file is in the way: remove it")

// Root is a directory that paths begin at.
type Root struct {
	fd   int
	name string
}

// Open opens the root: "/", or another directory.
func Open(name string) (*Root, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &Root{fd: fd, name: name}, nil
}

// Close closes the root.
func (r *Root) Close() error { return unix.Close(r.fd) }

// Name is the name that the root was opened by.
func (r *Root) Name() string { return r.name }

// Dir opens the directory at a path.
func (r *Root) Dir(name string) (*Dir, error) { return r.walk(name, -1) }

// MkdirAll opens the directory at a path, and makes what is missing of it with the mode. A new directory belongs to
// whom the one above it belongs.
func (r *Root) MkdirAll(name string, mode fs.FileMode) (*Dir, error) {
	return r.walk(name, int(mode.Perm()))
}

// Parent opens the directory above a path, made where it is missing, and returns the last name.
func (r *Root) Parent(name string) (*Dir, string, error) {
	clean := path.Clean("/" + name)
	if clean == "/" {
		return nil, "", &fs.PathError{Op: "open", Path: name, Err: errors.New("want the path of a file")}
	}
	d, err := r.MkdirAll(path.Dir(clean), 0o755)
	return d, path.Base(clean), err
}

// maxLinks is how many links one path may have: the kernel's number.
const maxLinks = 40

// walk opens the directory at a path; mode is for those to make, -1 for none.
func (r *Root) walk(name string, mode int) (_ *Dir, err error) {
	at, err := r.start()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			at.Close()
			err = &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}()
	above := []*Dir{} // for "..", which only a link of root's may have
	defer func() {
		for _, d := range above {
			d.Close()
		}
	}()
	links := 0
	for todo := words(path.Clean("/" + name)); len(todo) > 0; {
		word := todo[0]
		todo = todo[1:]
		if word == ".." {
			if len(above) > 0 {
				at.Close()
				at, above = above[len(above)-1], above[:len(above)-1]
			}
			continue
		}
		next, target, err := at.enter(word, mode)
		if err != nil {
			return nil, err
		}
		if next != nil {
			above, at = append(above, at), next
			continue
		}
		if links++; links > maxLinks {
			return nil, unix.ELOOP
		}
		if strings.HasPrefix(target, "/") {
			fresh, err := r.start()
			if err != nil {
				return nil, err
			}
			above, at = append(above, at), fresh
			for _, d := range above {
				d.Close()
			}
			above = nil
		}
		todo = append(words(target), todo...)
	}
	return at, nil
}

func (r *Root) start() (*Dir, error) {
	fd, err := unix.Openat(r.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return newDir(fd, "/")
}

func words(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(w string) bool { return w == "" || w == "." })
}

// enter opens a directory in this one, or returns the target of a link there that may be followed.
func (d *Dir) enter(name string, mode int) (next *Dir, target string, err error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(d.fd, name, flags, 0)
	if errors.Is(err, unix.ENOENT) && mode >= 0 {
		if err := d.Mkdir(name, fs.FileMode(mode), d.UID, d.GID); err != nil {
			return nil, "", err
		}
		fd, err = unix.Openat(d.fd, name, flags, 0)
	}
	if err == nil {
		next, err = newDir(fd, path.Join(d.name, name))
		return next, "", err
	}
	if !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENOTDIR) {
		return nil, "", err
	}
	target, err = d.trustedLink(name)
	return nil, target, err
}

// trustedLink reads a link that only root can have made.
func (d *Dir) trustedLink(name string) (string, error) {
	fd, err := unix.Openat(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", unix.ENOTDIR
	}
	if !d.trusted() || !trusted(int(st.Uid)) {
		return "", fmt.Errorf("%s: %w", path.Join(d.name, name), ErrUntrusted)
	}
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// trusted says whether an owner is root, or who this process is anyway.
func trusted(uid int) bool { return uid == 0 || uid == os.Geteuid() }

// ReadFile returns the content of a regular file of at most max bytes.
func (r *Root) ReadFile(name string, max int64) ([]byte, error) {
	clean := path.Clean("/" + name)
	for range maxLinks {
		d, err := r.Dir(path.Dir(clean))
		if err != nil {
			return nil, err
		}
		f, err := d.Open(path.Base(clean))
		if errors.Is(err, unix.ELOOP) {
			target, err := d.trustedLink(path.Base(clean))
			d.Close()
			if err != nil {
				return nil, err
			}
			if clean = path.Join(path.Dir(clean), target); strings.HasPrefix(target, "/") {
				clean = path.Clean(target)
			}
			continue
		}
		d.Close()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readAtMost(f, max)
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: unix.ELOOP}
}

func readAtMost(f *os.File, max int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(b)) > max {
		err = fmt.Errorf("%s: more than %d bytes", f.Name(), max)
	}
	return b, err
}

// WriteFile makes or replaces the file at a path. Directories that are missing are made.
func (r *Root) WriteFile(name string, data []byte, a Attr) error {
	d, base, err := r.Parent(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.WriteFile(base, data, a)
}
