// Package tpmtest starts TPMs in software, for tests.
package tpmtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Start starts swtpm for a test, and returns a function that connects to it; it serves one connection after the
// other. The files do not block, as internal/tpm wants them.
func Start(t testing.TB) (connect func() int) {
	t.Helper()
	return StartIn(t, t.TempDir())
}

// StartIn is Start with the TPM's state in a folder: that of a virtual machine which is off.
func StartIn(t testing.TB, state string) (connect func() int) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "tpm")
	var said bytes.Buffer
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state,
		"--flags", "not-need-init,startup-clear", "--server", "type=unixio,path="+socket)
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("a TPM in software: %v: apt-get install swtpm", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return func() int {
		t.Helper()
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("connect to swtpm: %v\n%s", err, &said)
			}
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
		return fd
	}
}
