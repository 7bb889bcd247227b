package guard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

func TestDeadline(t *testing.T) {
	for cmdline, want := range map[string]int{
		"": layout.BlessDeadline, "kairos.deadline=30": 30,
		"kairos.deadline=-1": layout.BlessDeadline, "kairos.deadline=x": layout.BlessDeadline,
	} {
		for soak, more := range map[string]int{"": 0, "2m": 120, "1500ms": 2, "never": 0} {
			got := Deadline(layout.ParseCmdline(cmdline), map[string]string{layout.ImageLabelSoak: soak})
			if got != want+more {
				t.Errorf("%q, soak %q: %d, want %d", cmdline, soak, got, want+more)
			}
		}
	}
}

// systemd-shutdown spares processes whose first argument begins with @.
func TestNameIsSpared(t *testing.T) {
	if Name[0] != '@' {
		t.Errorf("%q", Name)
	}
}

func TestStopTime(t *testing.T) {
	for seconds, want := range map[int]time.Duration{3: 3 * time.Second, layout.BlessDeadline: maxStop} {
		if got := stopTime(seconds); got != want {
			t.Errorf("%d: %v, want %v", seconds, got, want)
		}
	}
}

// On trial systemd pets a watchdog, and restarts after a crash of its own.
func TestStrict(t *testing.T) {
	root := t.TempDir()
	kernel := filepath.Join(root, "proc/sys/kernel")
	if err := os.MkdirAll(kernel, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Strict(root); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"softlockup_panic", "hardlockup_panic", "panic_on_oops"} {
		if b, err := os.ReadFile(filepath.Join(kernel, name)); err != nil || string(b) != "1" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	b, err := os.ReadFile(filepath.Join(root, layout.RunSystemdTrial))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"[Manager]", "RuntimeWatchdogSec=2min", "CrashReboot=yes"} {
		if !strings.Contains(string(b), line+"\n") {
			t.Errorf("%s is missing in\n%s", line, b)
		}
	}
}

// A blessing that ends with an error is asked for again, later each time, and not for ever.
func TestAskedAgain(t *testing.T) {
	for decidedAt, want := range map[int]int{1: 1, 3: 3, 1000: mostAsks} {
		var asked int
		var pauses []time.Duration
		again(
			func() bool { asked++; return asked == decidedAt },
			func(d time.Duration) { pauses = append(pauses, d) },
		)
		if asked != want || len(pauses) != want-1 {
			t.Errorf("decided at %d: asked %d times, pauses %v", decidedAt, asked, pauses)
		}
		for i := 1; i < len(pauses); i++ {
			if pauses[i] <= pauses[i-1] {
				t.Errorf("pauses do not grow: %v", pauses)
			}
		}
	}
}

// An init that nothing is known of is asked about once it runs, and has run for a while: one that ends at once would
// else be blessed at each start, and start for ever.
func TestBlessingWaitsForTheInit(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	runs := make(chan struct{})
	go func() { awaitInit(pipe[0]); close(runs) }()
	if _, err := unix.Write(pipe[1], []byte{0}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-runs:
		t.Error("blessed while /init is at work")
	default:
	}
	// What /init starts does not keep it open: the pipe closes when a program is executed.
	if flags, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %x, %v", flags, err)
	}
	unix.Close(pipe[1])
	<-runs
	for seconds, want := range map[int]time.Duration{
		0: time.Minute, 40: 10 * time.Second, layout.BlessDeadline: time.Minute,
	} {
		if got := settleTime(seconds); got != want {
			t.Errorf("deadline %d: %v, want %v", seconds, got, want)
		}
	}
}

// A recovery system has nothing to bless, unless it is on trial.
func TestGuardAsks(t *testing.T) {
	for b, want := range map[*layout.Boot]bool{
		{Role: layout.RoleSystem}: true, {Role: layout.RoleRecovery}: false, {Role: layout.RoleLive}: false,
		{Role: layout.RoleRecovery, Trial: true}: true,
	} {
		if got := asks(*b, layout.ByGuard); got != want {
			t.Errorf("%+v: %v", b, got)
		}
		if asks(*b, layout.BySystemd) {
			t.Errorf("%+v: beside systemd", b)
		}
	}
}
