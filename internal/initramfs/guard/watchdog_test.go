package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// fakeTimer restarts a machine that does not pet it for two minutes.
type fakeTimer struct {
	t      *testing.T
	last   time.Time
	pets   int
	armed  bool
	broken error
}

func (f *fakeTimer) pet() error {
	if since := time.Since(f.last); f.armed && since > 2*time.Minute {
		f.t.Errorf("the machine has restarted: nobody petted for %v", since)
	}
	f.last, f.armed = time.Now(), true
	f.pets++
	return f.broken
}

func (f *fakeTimer) disarm() error { f.armed = false; return nil }

func (*fakeTimer) every() time.Duration { return 30 * time.Second }

// Under an init that pets no watchdog the guard does while the release is on trial, and no longer.
func TestWatchdogIsPettedOnTrial(t *testing.T) {
	for name, test := range map[string]struct {
		comes   time.Duration // when the driver's device is there
		refused error
		broken  error
		decided time.Duration
		pets    int
	}{
		"there from the start":     {decided: 600 * time.Second, pets: 18},
		"its driver comes late":    {comes: 5 * time.Minute, decided: 600 * time.Second, pets: 10},
		"there is none":            {comes: time.Hour, decided: 600 * time.Second},
		"the image has a daemon":   {refused: unix.EBUSY, decided: 600 * time.Second},
		"it cannot be stopped":     {refused: errors.New("nowayout"), decided: 600 * time.Second},
		"decided before it begins": {decided: 50 * time.Second},
		"it does not answer":       {broken: unix.EIO, decided: 600 * time.Second, pets: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				f := &fakeTimer{t: t, broken: test.broken}
				open := func() (timer, error) {
					switch {
					case test.refused != nil:
						return nil, fmt.Errorf("watchdog: %w", test.refused)
					case time.Since(start) < test.comes:
						return nil, fmt.Errorf("watchdog: %w", unix.ENOENT)
					}
					return f, nil
				}
				decided := func() bool { return time.Since(start) >= test.decided }
				err := pet(open, time.Minute, nil, decided)
				want := test.broken
				if test.refused != unix.EBUSY {
					want = errors.Join(want, test.refused)
				}
				if (err != nil) != (want != nil) {
					t.Errorf("error %v, want %v", err, want)
				}
				if f.armed {
					t.Error("it runs on, and would restart a machine that is healthy")
				}
				if f.pets != test.pets {
					t.Errorf("petted %d times, want %d", f.pets, test.pets)
				}
			})
		})
	}
}

// The guard ends at its deadline, or with the init's services, and takes the watchdog with it; the restart that it
// forces is for the watchdog where the kernel hangs in it.
func TestWatchdogEndsWithTheGuard(t *testing.T) {
	for how, armed := range map[ending]bool{disarmed: false, counting: true} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeTimer{t: t}
			stop, ended := make(chan ending), make(chan error)
			go func() {
				never := func() bool { return false }
				ended <- pet(func() (timer, error) { return f, nil }, time.Minute, stop, never)
			}()
			time.Sleep(10 * time.Minute)
			synctest.Wait() // it may be petting at this very moment
			if !f.armed {
				t.Error("it does not run")
			}
			stop <- how
			if err := <-ended; err != nil || f.armed != armed {
				t.Errorf("armed %v, want %v; %v", f.armed, armed, err)
			}
		})
	}
}

// A watchdog that runs on when it is closed is not opened.
func TestWatchdogWithoutWayOut(t *testing.T) {
	root := t.TempDir()
	sys, dev := filepath.Join(root, "sys/class/watchdog", watchdogName), filepath.Join(root, "dev")
	for _, dir := range []string{sys, dev} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := openWatchdog(fd); !errors.Is(err, unix.ENOENT) {
		t.Errorf("without a watchdog: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dev, watchdogName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]string{"1\n": "cannot be stopped", "0\n": "timeout"} {
		if err := os.WriteFile(filepath.Join(sys, "nowayout"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := openWatchdog(fd); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nowayout %q: %v", content, err)
		}
	}
	// The second one was opened, is none, and was closed with the letter that stops it.
	if b, err := os.ReadFile(filepath.Join(dev, watchdogName)); err != nil || string(b) != "V" {
		t.Errorf("closed with %q, %v", b, err)
	}
}
