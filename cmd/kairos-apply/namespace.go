package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// privateEnv marks the process that has a mount namespace of its own.
const privateEnv = "KAIROS_APPLY_PRIVATE"

// private says whether this is that process. What follows on the work is its parent's: only that
// one goes on when the work is done.
func private() bool { return os.Getenv(privateEnv) != "" }

// childExit is the exit code of that process.
type childExit struct{ code int }

func (c *childExit) Error() string { return fmt.Sprintf("exit code %d", c.code) }

// privately runs do in a mount namespace of its own: what is mounted there is seen nowhere
// else, and goes away with the process however that ends. A namespace belongs to a
// process from its start, so the program starts itself once more.
func (a *app) privately(ctx context.Context, do func() error) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	if private() {
		// Mounts that happen elsewhere may come in; ours must not get out.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("mount namespace: %w", err)
		}
		return do()
	}
	// Not CommandContext: the child gets the terminal's signals itself, and ends in order.
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Args[0] = os.Args[0]
	c.Env = append(os.Environ(), privateEnv+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return runTied(ctx, c)
}

// runTied runs a child that gets SIGTERM when ctx is done, and does not outlive this process.
func runTied(ctx context.Context, c *exec.Cmd) error {
	// The child's parent is the thread that starts it: when that ends, so does the child. A thread ends with a
	// goroutine that has it for itself, whoever used it before. This goroutine outlives the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := c.Start(); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			_ = c.Process.Signal(syscall.SIGTERM)
		case <-ended:
		}
	}()
	err := c.Wait()
	close(ended)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if code := exit.ExitCode(); code >= 0 {
			return &childExit{code}
		}
		return fmt.Errorf("ended by %v", exit)
	}
	return err
}
