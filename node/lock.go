package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// lockFile is the file whose lock means that a command is at work.
const lockFile = layout.RunDir + "/lock"

// LockOptions say who asks for the machine and how patiently.
type LockOptions struct {
	// Who is told to those that wait meanwhile, such as "upgrade".
	Who string
	// Wait is how long to wait for another command.
	Wait time.Duration
	// Waiting, unless nil, is called once when there is something to wait for, with who is at work.
	Waiting func(who string)
}

// Lock makes sure that no other command is at work on this machine until the returned
// function is called, or the process ends. Where the other command outlasts the wait, the error
// is [ErrLocked] with its name.
func Lock(ctx context.Context, root string, o LockOptions) (unlock func(), err error) {
	path := filepath.Join(root, lockFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	told := false
	for end := time.Now().Add(o.Wait); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			// A hint for those who wait: that it cannot be written is no reason to stop.
			if f.Truncate(0) == nil {
				f.WriteAt([]byte(o.Who), 0)
			}
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock: %w", err)
		}
		if time.Now().After(end) {
			defer f.Close()
			return nil, fmt.Errorf("%w (it is: %s)", ErrLocked, holder(f))
		}
		if !told && o.Waiting != nil {
			told = true
			o.Waiting(holder(f))
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// holder names the command that has the lock.
func holder(f *os.File) string {
	b := make([]byte, 64)
	if n, _ := f.ReadAt(b, 0); n > 0 {
		return strings.ToValidUTF8(string(b[:n]), "?")
	}
	return "unknown"
}
