package fsck

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// Patience bounds a check: it takes as long as the disk is large, and a disk that does not answer takes for ever.
const Patience = time.Hour

// places are where images have e2fsck; the last one is ours.
var places = []string{"/usr/sbin/e2fsck", "/sbin/e2fsck", "/usr/bin/e2fsck", "/bin/e2fsck", "/" + layout.ImageE2fsck}

// ErrNoProgram says that the image has no e2fsck.
var ErrNoProgram = errors.New("the image has no e2fsck: install the package e2fsprogs in it")

// InImage returns the e2fsck of the image whose root is a folder. The root is verified: it has no more rights than
// this program has.
func InImage(root string) Program {
	return func(args ...string) (int, string, error) {
		path := find(root)
		if path == "" {
			return 0, "", ErrNoProgram
		}
		for _, dir := range []string{"/dev", "/proc"} {
			if err := unix.Mount(dir, root+dir, "", unix.MS_BIND, ""); err != nil {
				return 0, "", err
			}
			defer unix.Unmount(root+dir, unix.MNT_DETACH)
		}
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		c := exec.CommandContext(ctx, path, args...)
		c.Dir, c.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		c.WaitDelay = 5 * time.Second
		out, err := c.CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Exited() {
			return exit.ExitCode(), string(out), nil
		}
		return 0, string(out), err
	}
}

// find looks it up inside the root, whose links are not those of the system that looks.
func find(root string) string {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(dir)
	for _, p := range places {
		fd, err := unix.Openat2(
			dir,
			p,
			&unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT},
		)
		if err != nil {
			continue
		}
		f := os.NewFile(uintptr(fd), p)
		info, err := f.Stat()
		f.Close()
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}
