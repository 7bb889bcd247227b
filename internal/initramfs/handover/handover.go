// Package handover makes the image's root the root, and becomes the image's init.
package handover

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/internal/initramfs/root"
	"github.com/kairos-buildkit/kairos/layout"
)

// inits are the programs that a Linux system may have as its first, in the order to try.
var inits = []string{"/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/etc/init", "/bin/init"}

const sysroot = root.Dir

// Switch moves the kernel's interfaces into the image's root, makes it the root, and
// becomes the image's init. It returns only when that fails.
func Switch(init string, log *console.Log) error {
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if info, err := os.Lstat(sysroot + dir); err != nil || !info.IsDir() {
			return fmt.Errorf("the image has no folder %s: add it (RUN mkdir %s)", dir, dir)
		}
		if err := unix.Mount(dir, sysroot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s into the root: %w", dir, err)
		}
	}
	log.Detail("starting %s", init)
	// The initrd's files take memory until they are removed; this program stays open.
	if err := removeInitrd(); err != nil {
		log.Info("%v", err)
	}
	if err := os.Chdir(sysroot); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := errors.Join(unix.Chroot("."), os.Chdir("/")); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	applyConfig(log)
	// The kernel hands us words of the command line that it does not know: they are for init.
	args := append([]string{init}, os.Args[1:]...)
	return fmt.Errorf("start %s: %w", init, syscall.Exec(init, args, os.Environ()))
}

// Find returns the image's init, as a path in the image.
func Find(cmdline layout.Cmdline) (string, error) {
	if init, ok := cmdline.Get("init"); ok {
		if err := executable(init); err != nil {
			return "", fmt.Errorf("init=%s: %w", init, err)
		}
		return init, nil
	}
	for _, init := range inits {
		if executable(init) == nil {
			return init, nil
		}
	}
	return "", fmt.Errorf(
		"the image has no init (looked for %s): install one, such as systemd-sysv",
		strings.Join(inits, ", "),
	)
}

// executable says why the image's program cannot be started.
func executable(path string) error {
	f, err := openIn(sysroot, path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return errors.New("not an executable file")
	}
	// Read now: once the root is switched, a damaged one can only be a panic.
	_, err = io.Copy(io.Discard, f)
	return err
}

// removeInitrd removes the initrd's files, which are all on the file system of /.
func removeInitrd() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return fmt.Errorf("free the initrd: %w", err)
	}
	if t := int64(st.Type); t != unix.RAMFS_MAGIC && t != unix.TMPFS_MAGIC {
		return fmt.Errorf("free the initrd: / is not in memory")
	}
	var root unix.Stat_t
	if err := unix.Stat("/", &root); err != nil {
		return fmt.Errorf("free the initrd: %w", err)
	}
	var files []string
	filepath.WalkDir("/", func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == "/" {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil || st.Dev != root.Dev {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		files = append(files, path)
		return nil
	})
	for i := len(files) - 1; i >= 0; i-- {
		os.Remove(files[i]) // a folder with a mount on it stays
	}
	return nil
}
