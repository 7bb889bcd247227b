// Package partition mounts a node's partitions for one command, and takes them away when it ends.
//
// A superblock has one mode, whoever mounted it first: so a partition that the system has mounted
// read-only is made writable through a mount of our own, and one that is mounted read-write is
// joined by readers.
package partition

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/modprobe"
	"github.com/kairos-buildkit/kairos/layout"

	"github.com/kairos-buildkit/kairos/internal/mount"
)

// Set is the file systems that one command has mounted. The process has a mount namespace of its
// own: nobody else sees them. The zero value mounts for writing too.
type Set struct {
	ReadOnly bool   // nothing will be written
	Dir      string // where they are, empty: [Dir]
	list     []mounted
}

// Dir is where a Set mounts; /run is in memory.
const Dir = "/" + layout.RunDir + "/mnt"

type mounted struct {
	name, device, fs, dir string
	readOnly              bool // wanted
	wasReadOnly           bool // before we made it writable
}

// Mount mounts a device and returns the directory. The name is for Unmount and OnDevice.
func (s *Set) Mount(name, device, fs string) (string, error) {
	return s.mount(name, device, fs, s.ReadOnly)
}

// MountReadOnly is Mount for a device that is not ours to write.
func (s *Set) MountReadOnly(name, device, fs string) (string, error) {
	return s.mount(name, device, fs, true)
}

func (s *Set) mount(name, device, fs string, readOnly bool) (string, error) {
	at := mounted{name: name, device: device, fs: fs, dir: filepath.Join(s.dir(), name), readOnly: readOnly}
	if err := os.MkdirAll(at.dir, 0o700); err != nil {
		return "", err
	}
	err := at.mount()
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		// The kernel asks the image's modprobe for a file system that it does not know, and there may be none.
		_ = modprobe.Load(driversOf(fs)...) // one of them may be built in, or not wanted: the mount decides
		err = at.mount()
	}
	if err != nil {
		return "", fmt.Errorf("mount %s (%s): %w", device, name, err)
	}
	s.list = append(s.list, at)
	return at.dir, nil
}

// driversOf are the modules that mounting a file system takes; for vfat its default tables of names, too.
func driversOf(fs string) []string {
	if fs == "vfat" {
		return []string{"vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"}
	}
	return []string{fs}
}

func (s *Set) dir() string {
	if s.Dir != "" {
		return s.Dir
	}
	return Dir
}

func (a *mounted) mount() error {
	const flags = mount.Data | unix.MS_NOATIME
	options := ""
	if a.fs == "vfat" {
		// A file that was being written when the power went may have clusters that are free. Removing it
		// is then an error of the file system, which must not end the command that repairs it.
		options = "umask=0077,errors=continue"
	}
	if a.readOnly {
		err := unix.Mount(a.device, a.dir, a.fs, flags|unix.MS_RDONLY, options)
		if errors.Is(err, unix.EBUSY) {
			// It is mounted read-write elsewhere: join that superblock, and do not write.
			err = unix.Mount(a.device, a.dir, a.fs, flags, options)
		}
		return err
	}
	// The system may have it mounted read-only.
	shared, err := mount.Writable(a.device, a.dir, a.fs, flags, options)
	a.wasReadOnly = a.wasReadOnly || shared
	return err
}

func (a *mounted) unmount() error {
	if a.wasReadOnly {
		// So that a later power cut finds a clean file system.
		_ = mount.ReadOnly(a.dir)
	}
	return unix.Unmount(a.dir, 0)
}

// Unmount ends one mount. That there is none is no error.
func (s *Set) Unmount(name string) error {
	for i := range s.list {
		if s.list[i].name != name {
			continue
		}
		if err := s.list[i].unmount(); err != nil {
			return fmt.Errorf("unmount %s: %w", name, err)
		}
		s.list = slices.Delete(s.list, i, i+1)
		return nil
	}
	return nil
}

// Close ends all mounts, the last one first.
func (s *Set) Close() error {
	var errs []error
	for i := len(s.list) - 1; i >= 0; i-- {
		err := s.list[i].unmount()
		if errors.Is(err, unix.EBUSY) {
			// A part of containerd's may close its last file a moment later. What was written is
			// synced; the mount is this process's alone, and goes with that file.
			err = errors.Join(Sync(s.list[i].dir), unix.Unmount(s.list[i].dir, unix.MNT_DETACH))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", s.list[i].name, err))
		}
	}
	s.list = nil
	return errors.Join(errs...)
}

// OnDevice hands over the device of a mounted file system, which is unmounted for that moment, to be
// changed below it. What do wrote is fsynced.
func (s *Set) OnDevice(name string, do func(*os.File) error) (err error) {
	i := slices.IndexFunc(s.list, func(a mounted) bool { return a.name == name })
	if i < 0 {
		return fmt.Errorf("%s is not mounted", name)
	}
	at := &s.list[i]
	if err := Sync(at.dir); err != nil {
		return err
	}
	if err := unix.Unmount(at.dir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", at.device, err)
	}
	defer func() { err = errors.Join(err, at.mount()) }()
	f, err := os.OpenFile(at.device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := do(f); err != nil {
		return err
	}
	return f.Sync()
}

// Busy says whether a device that is not mounted here has a mount elsewhere.
func Busy(device string) bool {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0) // a mounted device refuses that
	if err != nil {
		return true
	}
	f.Close()
	return false
}

// Sync writes out the file system that dir is in.
func Sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
