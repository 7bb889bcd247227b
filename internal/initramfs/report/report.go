// Package report leaves on the disk why a release failed.
package report

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/internal/mount"
	"github.com/kairos-buildkit/kairos/layout"
)

// Write leaves in the store on a device why a release failed, with the last lines of the console. It
// works while the store is mounted read-only elsewhere, and from the guard, which sees another root.
func Write(deviceNumber uint64, id, reason string) error {
	// These are writable before and after the hand-over, and in the guard's root, where they are plain folders.
	const dir, node = "/" + layout.RunPrivate + "/failed", "/dev/kairos-failed-store"
	if err := errors.Join(mount.PrivateDir(dir), os.MkdirAll(filepath.Dir(node), 0o755)); err != nil {
		return err
	}
	os.Remove(node)
	defer os.Remove(node)
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(deviceNumber)); err != nil {
		return err
	}
	if _, err := mount.Writable(node, dir, "ext4", mount.Data, ""); err != nil {
		return err
	}
	defer unix.Unmount(dir, 0)
	// So that the next boot finds a clean file system.
	defer mount.ReadOnly(dir)
	path := filepath.Join(dir, layout.FailurePath(id))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	text := strings.ReplaceAll(reason, "\n", " ") + "\n"
	return (*durable.FS)(
		nil,
	).WriteFile(path, append([]byte(text), kernelLog(layout.MaxFailureSize-len(text))...), 0o600)
}

// Failure leaves the reason in the store on a device, if the machine got that far.
func Failure(b layout.Boot, store string, cause error) error {
	if b.Role != layout.RoleSystem && !b.OnTrial() || store == "" {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(store, &st); err != nil {
		return err
	}
	return Write(st.Rdev, b.Release, fmt.Sprintf("cannot boot: %v", cause))
}

// kernelLog returns the end of the kernel's log, whole lines.
func kernelLog(limit int) []byte {
	const readAll = 3 // SYSLOG_ACTION_READ_ALL
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(readAll, buf)
	if err != nil || limit <= 0 {
		return nil
	}
	return lastLines(buf[:n], min(limit, 16<<10))
}

func lastLines(b []byte, limit int) []byte {
	if len(b) <= limit {
		return b
	}
	b = b[len(b)-limit:]
	if i := strings.IndexByte(string(b), '\n'); i >= 0 {
		b = b[i+1:]
	}
	return b
}

// Within runs something that may hang, and goes on after a while.
func Within(d time.Duration, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(d):
		return os.ErrDeadlineExceeded
	}
}
