package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// scratchDir is a tmpfs that takes what is written to the ephemeral folders.
const scratchDir = "/" + layout.RunDir + "/ephemeral"

// mountEphemeral puts a writable layer in memory over folders of sysroot.
func mountEphemeral(paths []string) error {
	// As for any tmpfs, half of the memory is the limit.
	if err := mount("tmpfs", scratchDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return err
	}
	for _, p := range paths {
		if err := overlayOn(sysroot+p, filepath.Join(scratchDir, layout.StateName(p))); err != nil {
			return err
		}
	}
	tmp := filepath.Join(sysroot, "tmp")
	if !isDir(tmp) {
		return nil
	}
	return mount("tmpfs", tmp, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_STRICTATIME, "mode=1777")
}

// overlayOn mounts a writable overlay over a folder, with its content as the lower layer. An
// image that does not have the folder needs no overlay there.
func overlayOn(dir, scratch string) error {
	if !isDir(dir) {
		return nil
	}
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make %s writable: %w", dir, err)
		}
	}
	if err := copyFolder(dir, upper); err != nil {
		return fmt.Errorf("make %s writable: %w", dir, err)
	}
	return mount("overlay", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+upper+",workdir="+work)
}

// copyFolder gives one folder the owner, mode, extended attributes and time of another: an
// overlay shows those of its upper folder.
func copyFolder(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return err
	}
	if err := errors.Join(unix.Chown(to, int(st.Uid), int(st.Gid)), unix.Chmod(to, st.Mode&0o7777)); err != nil {
		return err
	}
	names := make([]byte, 64<<10)
	n, err := unix.Listxattr(from, names)
	if err != nil {
		n = 0 // the file system has none
	}
	for _, name := range splitNul(names[:n]) {
		value := make([]byte, 64<<10)
		if n, err := unix.Getxattr(from, name, value); err == nil {
			unix.Setxattr(to, name, value[:n], 0) // such as a security label: the kernel may refuse it
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, 0)
}

func splitNul(b []byte) []string {
	var parts []string
	start := 0
	for i, c := range b {
		if c == 0 {
			parts = append(parts, string(b[start:i]))
			start = i + 1
		}
	}
	return parts
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}
