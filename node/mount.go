package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// mounts are file systems that are mounted for one command.
type mounts struct {
	readOnly bool // nothing will be written
	list     []mounted
}

type mounted struct {
	name, device, fs, dir string
	readOnly              bool // wanted
	wasReadOnly           bool // before we made it writable
}

// mountDir is where they are; /run is in memory.
const mountDir = "/run/kairos/mnt"

// mount mounts a device and returns the folder.
func (m *mounts) mount(name, device, fs string) (string, error) {
	at := mounted{name: name, device: device, fs: fs, dir: filepath.Join(mountDir, name), readOnly: m.readOnly}
	if err := os.MkdirAll(at.dir, 0o700); err != nil {
		return "", err
	}
	if err := at.mount(); err != nil {
		return "", fmt.Errorf("mount %s (%s): %w", device, name, err)
	}
	m.list = append(m.list, at)
	return at.dir, nil
}

func (a *mounted) mount() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	options := ""
	if a.fs == "vfat" {
		// A file that was being written when the power went may have clusters that are free. To remove
		// it is an error of the file system, which must not end the command that makes things good.
		options = "umask=0077,errors=continue"
	}
	if a.readOnly {
		err := unix.Mount(a.device, a.dir, a.fs, flags|unix.MS_RDONLY, options)
		if errors.Is(err, unix.EBUSY) {
			// Somebody writes. All mounts of a file system are of one kind; this one is not used to
			// write, and leaves the other as it is.
			err = unix.Mount(a.device, a.dir, a.fs, flags, options)
		}
		return err
	}
	err := unix.Mount(a.device, a.dir, a.fs, flags, options)
	if errors.Is(err, unix.EBUSY) {
		// The system has it mounted read-only. A mount of the same kind shares that file
		// system, and can make it writable; the other mounts stay read-only.
		if err = unix.Mount(a.device, a.dir, a.fs, flags|unix.MS_RDONLY, options); err == nil {
			a.wasReadOnly = true
			err = unix.Mount("", a.dir, "", flags|unix.MS_REMOUNT, options)
		}
	}
	return err
}

func (a *mounted) unmount() error {
	if a.wasReadOnly {
		// So that a later power cut finds a clean file system.
		_ = unix.Mount("", a.dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	return unix.Unmount(a.dir, 0)
}

// unmount ends one mount. That there is none is no error.
func (m *mounts) unmount(name string) error {
	for i := range m.list {
		if m.list[i].name != name {
			continue
		}
		if err := m.list[i].unmount(); err != nil {
			return fmt.Errorf("unmount %s: %w", name, err)
		}
		m.list = slices.Delete(m.list, i, i+1)
		return nil
	}
	return nil
}

func (m *mounts) close() error {
	var errs []error
	for i := len(m.list) - 1; i >= 0; i-- {
		err := m.list[i].unmount()
		if errors.Is(err, unix.EBUSY) {
			// A part of containerd's may close its last file a moment later. What was written is on the
			// disk; the mount is this process's alone, and goes with that file.
			err = errors.Join(syncFS(m.list[i].dir), unix.Unmount(m.list[i].dir, unix.MNT_DETACH))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.list[i].name, err))
		}
	}
	m.list = nil
	return errors.Join(errs...)
}

// onFAT changes a mounted FAT volume below the file system, which is unmounted for that moment.
func (m *mounts) onFAT(name, device string, do func(*fatDisk) error) (err error) {
	var at *mounted
	for i := range m.list {
		if m.list[i].name == name {
			at = &m.list[i]
		}
	}
	if at == nil {
		return fmt.Errorf("%s is not mounted", name)
	}
	if err := syncFS(at.dir); err != nil {
		return err
	}
	if err := unix.Unmount(at.dir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", device, err)
	}
	defer func() { err = errors.Join(err, at.mount()) }()
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	d, err := openFAT(f)
	if err != nil {
		return err
	}
	if err := do(d); err != nil {
		return err
	}
	return f.Sync()
}

// mountedElsewhere says whether a device that we have unmounted has another mount still.
func mountedElsewhere(device string) bool {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0) // a mounted device refuses that
	if err != nil {
		return true
	}
	f.Close()
	return false
}

func syncFS(dir string) error {
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
