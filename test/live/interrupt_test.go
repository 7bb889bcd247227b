//go:build vm

package live

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Ctrl-C ends a build in the middle of a step, or of writing the ISO, and leaves no process, no
// mount and no file.
func TestInterrupt(t *testing.T) {
	for _, tc := range []struct {
		name, step, until string
	}{
		{"in a step", "RUN echo now''here && sleep 311", "nowhere"},
		{"while layers are converted", "RUN echo once", "converting layer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state, out, source := t.TempDir(), t.TempDir(), t.TempDir()
			write(t, filepath.Join(source, "Dockerfile"), "# syntax=kairos\nFROM debian:trixie\n"+tc.step+"\n")
			cmd := exec.Command(
				kairosBin,
				buildArgs("--root", state, "--output", "type=iso,dest="+out+"/os.iso", source)...)
			// A process group of its own, as a shell makes it for what runs in the foreground.
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			log := &lockedBuffer{}
			cmd.Stdout, cmd.Stderr = log, log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })

			waitFor(t, 5*time.Minute, func() error {
				if !strings.Contains(log.String(), tc.until) {
					return fmt.Errorf("no %q in\n%s", tc.until, tail(log.String(), 20))
				}
				return nil
			})
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Fatalf("it runs on after Ctrl-C:\n%s", tail(log.String(), 20))
			}
			if code := cmd.ProcessState.ExitCode(); code != 130 {
				t.Errorf("exit code %d, want 130:\n%s", code, tail(log.String(), 20))
			}
			if strings.Contains(processes(t), "sleep 311") {
				t.Errorf("the step's process runs on:\n%s", processes(t))
			}
			mounts, err := os.ReadFile("/proc/self/mounts")
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(mounts), state) {
				t.Errorf("mounts are left below %s:\n%s", state, mounts)
			}
			checkEmpty(t, out)
		})
	}
}

// processes lists the command lines of all processes.
func processes(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		b, _ := os.ReadFile(f) // it may have ended
		all.WriteString(strings.ReplaceAll(string(b), "\x00", " ") + "\n")
	}
	return all.String()
}

func waitFor(t *testing.T, within time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
