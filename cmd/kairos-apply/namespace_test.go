package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// A child is tied to the thread that started it. While it runs, the threads of others end, and it does not.
func TestTiedChildOutlivesThreads(t *testing.T) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			ended := make(chan struct{})
			go func() {
				runtime.LockOSThread() // and its thread ends with it
				close(ended)
			}()
			<-ended
		}
	}()
	for range 40 {
		c := exec.Command("sleep", "0.03")
		c.SysProcAttr = &syscall.SysProcAttr{}
		if err := runTied(t.Context(), c); err != nil {
			t.Errorf("the child has ended before its time: %v", err)
			break
		}
	}
	close(stop)
	<-stopped
}

// tiedHelper is set in the process that is killed.
const tiedHelper = "KAIROS_TEST_TIED"

// A child ends with its parent, however that ends.
func TestTiedChildEndsWithItsParent(t *testing.T) {
	if os.Getenv(tiedHelper) != "" {
		c := exec.Command("sh", "-c", "echo started; exec sleep 600")
		c.Stdout, c.SysProcAttr = os.Stdout, &syscall.SysProcAttr{}
		t.Fatal(runTied(t.Context(), c))
	}
	parent := exec.Command(os.Args[0], "-test.run=^TestTiedChildEndsWithItsParent$")
	parent.Env = append(os.Environ(), tiedHelper+"=1")
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	parent.Stdout = w
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := io.ReadFull(out, make([]byte, len("started"))); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(parent.Process.Kill(), out.SetReadDeadline(time.Now().Add(time.Minute))); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	// The child has the pipe, too.
	if _, err := io.ReadAll(out); err != nil {
		t.Errorf("the child goes on: %v", err)
	}
}

// A child that a person interrupts ends in order, and says how it ended.
func TestTiedChildIsAskedToEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := exec.Command("sh", "-c", "trap 'exit 6' TERM; echo started; while :; do sleep 0.05; done")
	c.Stdout, c.SysProcAttr = w, &syscall.SysProcAttr{}
	go func() {
		_, _ = io.ReadFull(r, make([]byte, len("started")))
		cancel()
	}()
	var exit *childExit
	if err := runTied(ctx, c); !errors.As(err, &exit) || exit.code != 6 {
		t.Errorf("%v", err)
	}
	w.Close()
}
