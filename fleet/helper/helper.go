// Package helper is what runs in a helper pod: kairos-apply of the node, or the node's reboot, in the node's mount
// namespace. The pod has the operator's image, and nothing of the release.
package helper

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// EnterMounts has what this goroutine starts from now on see the mounts of another process, such as
// /proc/1/ns/mnt. The goroutine keeps its thread, which no other one may use any more.
func EnterMounts(namespace string) error {
	runtime.LockOSThread()
	fd, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w: the helper pod needs hostPID and privileges", namespace, err)
	}
	defer unix.Close(fd)
	// A thread that shares its root and working directory with others cannot change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter %s: %w: the helper pod has to be privileged", namespace, err)
	}
	return nil
}

// Run runs a command that answers as package api says, and returns its answer. Its progress goes to log, a line each.
func Run(ctx context.Context, log io.Writer, name string, args ...string) v1alpha1.HelperReport {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = "/"
	var out bytes.Buffer
	c.Stdout = &out
	progress, err := c.StderrPipe()
	if err != nil {
		return failed(err)
	}
	if err := c.Start(); err != nil {
		return failed(fmt.Errorf("start %s on the node: %w", name, err))
	}
	reason, readErr := follow(progress, log)
	err = c.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return failed(err)
	}
	r := answer(out.Bytes(), c.ProcessState.ExitCode())
	switch {
	case r.Reason == "":
		r.Reason = reason
	case reason != "":
		r.Reason = reason + "; " + r.Reason
	}
	if r.Reason == "" && readErr != nil {
		r.Reason = readErr.Error()
	}
	r.Reason = v1alpha1.Bounded(r.Reason, v1alpha1.MaxReason)
	return r
}

// Restart restarts the machine, and answers as Run does, where its boot is still this one: a pod that the kubelet
// starts when the machine has restarted already does nothing.
func Restart(ctx context.Context, log io.Writer, file, boot string) v1alpha1.HelperReport {
	b, err := os.ReadFile(file)
	if err != nil {
		return failed(err)
	}
	if is := strings.TrimSpace(string(b)); is != boot {
		return v1alpha1.HelperReport{Reason: "the node has restarted already: its boot is " + is}
	}
	r := Run(ctx, log, "reboot")
	if r.Exit != 0 && r.Reason == "" {
		r.Reason = fmt.Sprintf("reboot ended with %d", r.Exit)
	}
	return r
}

// follow copies events to log, and returns the text of the last one that says why the command failed.
func follow(from io.Reader, log io.Writer) (reason string, err error) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Fprintln(log, lines.Text())
		var e api.Event
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Step == api.StepError {
			reason = e.Text
		}
	}
	if err = lines.Err(); err != nil {
		_, _ = io.Copy(io.Discard, from) // the command must not wait for a reader
	}
	return reason, err
}

// answer reads what an upgrade or a rollback printed.
func answer(out []byte, exit int) v1alpha1.HelperReport {
	r := v1alpha1.HelperReport{Exit: exit}
	if len(bytes.TrimSpace(out)) == 0 {
		return r
	}
	var result api.Result
	if err := json.Unmarshal(out, &result); err != nil {
		r.Reason = fmt.Sprintf("its answer cannot be read: %v", err)
		return r
	}
	r.Release, r.Version, r.Changed, r.Fetched = result.Release, result.Version, result.Changed, result.Fetched
	if result.Failure != nil {
		r.Reason = result.Failure.Reason
	}
	return r
}

func failed(err error) v1alpha1.HelperReport {
	return v1alpha1.HelperReport{Exit: -1, Reason: v1alpha1.Bounded(err.Error(), v1alpha1.MaxReason)}
}
