package tree

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/filemode"
)

// Dir is an open directory. What is done in it is done in this very directory, wherever its name leads by then.
type Dir struct {
	fd   int
	name string
	mode uint32
	// UID and GID own the directory.
	UID, GID int
}

// Attr is what a new file is given.
type Attr struct {
	Mode     fs.FileMode // permissions, and setuid, setgid and sticky as in Go
	UID, GID int         // -1: that of this process
	// Like, where it is set, gives mode, owner and extended attributes in place of the other fields.
	Like *os.File
}

func newDir(fd int, name string) (*Dir, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &Dir{fd: fd, name: name, mode: st.Mode, UID: int(st.Uid), GID: int(st.Gid)}, nil
}

// Close closes the directory.
func (d *Dir) Close() error { return unix.Close(d.fd) }

// trusted says that nobody but root can change what root has put into the directory.
func (d *Dir) trusted() bool {
	return trusted(d.UID) && (d.mode&0o022 == 0 || d.mode&unix.S_ISVTX != 0)
}

// closed says that nobody but root can put a name into the directory.
func (d *Dir) closed() bool { return trusted(d.UID) && d.mode&0o022 == 0 }

func (d *Dir) fail(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: path.Join(d.name, name), Err: err}
}

// Open opens a regular file for reading. Where users can change the directory, a file with more names than this one is
// refused: the other one may be a file that its reader must not see.
func (d *Dir) Open(name string) (*os.File, error) {
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	f := os.NewFile(uintptr(fd), path.Join(d.name, name))
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, d.fail("stat", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || !d.closed() && st.Nlink > 1 {
		f.Close()
		return nil, d.fail("open", name, ErrUntrusted)
	}
	return f, nil
}

// ReadFile returns the content of a regular file of at most max bytes. No link is followed.
func (d *Dir) ReadFile(name string, max int64) ([]byte, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, max)
}

// Mkdir makes a directory, unless there is one.
func (d *Dir) Mkdir(name string, mode fs.FileMode, uid, gid int) error {
	switch err := unix.Mkdirat(d.fd, name, 0o700); {
	case errors.Is(err, unix.EEXIST):
		return nil
	case err != nil:
		return d.fail("mkdir", name, err)
	}
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return d.fail("mkdir", name, err)
	}
	defer unix.Close(fd)
	// Whoever owns the directory above may have put another one here, of his own.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return d.fail("mkdir", name, err)
	}
	if int(st.Uid) != os.Geteuid() {
		return d.fail("mkdir", name, ErrUntrusted)
	}
	if err := chown(fd, uid, gid); err != nil {
		return d.fail("chown", name, err)
	}
	if err := unix.Fchmod(fd, filemode.ToUnix(mode)); err != nil {
		return d.fail("chmod", name, err)
	}
	return nil
}

// Sub opens a directory in this one. No link is followed.
func (d *Dir) Sub(name string) (*Dir, error) {
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		err = ErrUntrusted
	}
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	return newDir(fd, path.Join(d.name, name))
}

// Names lists what is in the directory.
func (d *Dir) Names() ([]string, error) {
	fd, err := unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.fail("open", ".", err)
	}
	f := os.NewFile(uintptr(fd), d.name)
	defer f.Close()
	return f.Readdirnames(-1)
}

// Remove removes a file or a link; that there is none is no error.
func (d *Dir) Remove(name string) error {
	if err := unix.Unlinkat(d.fd, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return d.fail("remove", name, err)
	}
	return nil
}

// Symlink makes a link, in place of what has the name.
func (d *Dir) Symlink(target, name string) error {
	temp := tempName()
	if err := unix.Symlinkat(target, d.fd, temp); err != nil {
		return d.fail("symlink", name, err)
	}
	return d.rename(temp, name)
}

// WriteFile makes a file, or replaces what has its name. The file is fsynced before it gets its name, so that a
// power cut leaves the old one or the new one.
func (d *Dir) WriteFile(name string, data []byte, a Attr) error {
	temp, err := d.Prepare(name, data, a)
	if err != nil {
		return err
	}
	return temp.Commit()
}

// Pending is a file without its name yet.
type Pending struct {
	dir        *Dir
	temp, name string
}

// Prepare writes a file that Commit gives its name.
func (d *Dir) Prepare(name string, data []byte, a Attr) (_ *Pending, err error) {
	temp := tempName()
	fd, err := unix.Openat(d.fd, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, d.fail("create", name, err)
	}
	f := os.NewFile(uintptr(fd), path.Join(d.name, name))
	defer f.Close()
	defer func() {
		if err != nil {
			unix.Unlinkat(d.fd, temp, 0)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return nil, err
	}
	if err := a.apply(fd); err != nil {
		return nil, d.fail("set the attributes of", name, err)
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	return &Pending{dir: d, temp: temp, name: name}, nil
}

// Commit gives the file its name.
func (p *Pending) Commit() error { return p.dir.rename(p.temp, p.name) }

// Discard removes the file.
func (p *Pending) Discard() { unix.Unlinkat(p.dir.fd, p.temp, 0) }

func (d *Dir) rename(temp, name string) error {
	if err := unix.Renameat(d.fd, temp, d.fd, name); err != nil {
		unix.Unlinkat(d.fd, temp, 0)
		return d.fail("rename", name, err)
	}
	if err := unix.Fsync(d.fd); err != nil {
		return d.fail("fsync the directory of", name, err)
	}
	return nil
}

// tempName has a dot in front, so that no directory of snippets takes the file for one of them.
func tempName() string { return fmt.Sprintf(".kairos-%s.tmp", rand.Text()) }

func (a Attr) apply(fd int) error {
	mode := filemode.ToUnix(a.Mode)
	uid, gid := a.UID, a.GID
	if a.Like != nil {
		var st unix.Stat_t
		if err := unix.Fstat(int(a.Like.Fd()), &st); err != nil {
			return err
		}
		mode, uid, gid = st.Mode&0o7777, int(st.Uid), int(st.Gid)
		if err := copyXattrs(int(a.Like.Fd()), fd); err != nil {
			return err
		}
	}
	if err := chown(fd, uid, gid); err != nil { // before the mode: it takes setuid away
		return err
	}
	return unix.Fchmod(fd, mode)
}

func chown(fd, uid, gid int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if (uid < 0 || int(st.Uid) == uid) && (gid < 0 || int(st.Gid) == gid) {
		return nil
	}
	return unix.Fchown(fd, uid, gid)
}

func copyXattrs(from, to int) error {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(from, list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for len(list[:n]) > 0 {
		name := unix.ByteSliceToString(list[:n])
		list, n = list[len(name)+1:], n-len(name)-1
		size, err := unix.Fgetxattr(from, name, value)
		if err != nil {
			return err
		}
		if err := unix.Fsetxattr(to, name, value[:size], 0); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// OpenLock opens a file, made where it is missing, to hold a lock on it.
func (d *Dir) OpenLock(name string) (*os.File, error) {
	fd, err := unix.Openat(d.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	return os.NewFile(uintptr(fd), path.Join(d.name, name)), nil
}

// Has says whether there is something of a name.
func (d *Dir) Has(name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// SyncFS writes all of the directory's file system to its device.
func (d *Dir) SyncFS() error {
	fd, err := unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return d.fail("open", ".", err)
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}

// SetDir gives a directory that is there its mode and owner.
func (d *Dir) SetDir(name string, a Attr) error {
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return d.fail("open", name, err)
	}
	defer unix.Close(fd)
	if err := a.apply(fd); err != nil {
		return d.fail("set the attributes of", name, err)
	}
	return nil
}
