package policy

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/mount"
	"github.com/kairos-buildkit/kairos/layout"
)

// mountEphemeral puts a writable layer in memory over folders of the image. One that the image does not have needs
// none.
func (p *policy) mountEphemeral(paths []string) error {
	// As for any tmpfs, half of the memory is the limit.
	if err := mount.On("tmpfs", scratchDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return err
	}
	done := map[string]bool{}
	for _, path := range paths {
		at, err := resolve(sysroot, path)
		if err != nil || done[at] {
			continue
		}
		done[at] = true
		if err := overlayOn(sysroot+at, filepath.Join(scratchDir, layout.StateName(path))); err != nil {
			return err
		}
	}
	tmp, err := resolve(sysroot, "/tmp")
	if err != nil {
		return nil
	}
	return mount.On("tmpfs", sysroot+tmp, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_STRICTATIME, "mode=1777")
}

// overlayOn mounts a writable overlay over a folder, with its content as the lower layer.
func overlayOn(dir, scratch string) error {
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make %s writable: %w", dir, err)
		}
	}
	if err := copyAttributes(dir, upper); err != nil {
		return fmt.Errorf("make %s writable: %w", dir, err)
	}
	return mount.On("overlay", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+upper+",workdir="+work)
}

// engineInMemory gives a container engine a folder in memory that is no overlay, with what the image has there.
func (p *policy) engineInMemory(path string) error {
	at, err := resolveOrMake(sysroot, path)
	if err != nil {
		return nil // where it cannot be made, no engine makes it
	}
	dir := filepath.Join(scratchDir, "engine-"+layout.StateName(path))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := copyAttributes(sysroot+at, dir); err != nil {
		return err
	}
	if err := copyTree(sysroot+at, dir, replace); err != nil {
		return err
	}
	return bind(dir, sysroot+at)
}

func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind mount: %w", err)
	}
	return nil
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}
