package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// sysroot is where the root is put together.
const sysroot = "/sysroot"

// mountKernelInterfaces mounts what shows the kernel's state. All but sysroot itself move
// into the image's root later.
func mountKernelInterfaces() error {
	for _, m := range []struct {
		fstype, dir string
		flags       uintptr
		options     string
	}{
		{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
		{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_STRICTATIME, "mode=0755"},
	} {
		if err := mount(m.fstype, m.dir, m.fstype, m.flags, m.options); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return nil
}

// mount mounts on a folder, which it makes where it is missing.
func mount(device, dir, fstype string, flags uintptr, options string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	if err := unix.Mount(device, dir, fstype, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s (%s): %w", device, dir, fstype, err)
	}
	return nil
}
