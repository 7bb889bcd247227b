// Package mount mounts file systems: what /init, the node agent and the machines of tests have in common.
package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Data are the flags of a file system that only holds data.
const Data = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// On mounts on a folder, which it makes where it is missing.
func On(device, dir, fstype string, flags uintptr, options string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	if err := unix.Mount(device, dir, fstype, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s (%s): %w", device, dir, fstype, err)
	}
	return nil
}

// PrivateDir makes a folder that only root enters, in one that everybody may enter.
func PrivateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700) // it may have been there
}

// KernelInterfaces mounts what shows the kernel's state: /dev, /proc, /sys, and /run.
func KernelInterfaces() error {
	for _, m := range []struct {
		fstype, dir string
		flags       uintptr
		options     string
	}{
		{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
		{"proc", "/proc", Data, ""},
		{"sysfs", "/sys", Data, ""},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_STRICTATIME, "mode=0755"},
	} {
		if err := On(m.fstype, m.dir, m.fstype, m.flags, m.options); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return nil
}

// Writable mounts for writing what may be mounted read-only elsewhere: a mount of the same kind shares
// that file system, and can make it writable; the other mounts stay read-only. shared says that it was so:
// then [ReadOnly] has to come before the unmount, so that a power cut later finds a clean file system.
func Writable(device, dir, fstype string, flags uintptr, options string) (shared bool, err error) {
	err = unix.Mount(device, dir, fstype, flags, options)
	if !errors.Is(err, unix.EBUSY) {
		return false, err
	}
	if err := unix.Mount(device, dir, fstype, flags|unix.MS_RDONLY, options); err != nil {
		return false, err
	}
	if err := unix.Mount("", dir, "", flags|unix.MS_REMOUNT, options); err != nil {
		return false, errors.Join(err, unix.Unmount(dir, 0))
	}
	return true, nil
}

// ReadOnly makes a file system read-only again that [Writable] has made writable.
func ReadOnly(dir string) error {
	return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
}
