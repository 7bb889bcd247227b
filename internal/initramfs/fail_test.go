package initramfs

import (
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/layout"
)

func TestRestartDelayIsTheKernels(t *testing.T) {
	for cmdline, want := range map[string]struct {
		wait    time.Duration
		forever bool
	}{
		"panic=10": {10 * time.Second, false}, "panic=0": {0, true}, "panic=-1": {0, false},
		"": {10 * time.Second, false}, "panic=x": {10 * time.Second, false},
		"panic=5 panic=30": {30 * time.Second, false},
	} {
		wait, forever := restartDelay(layout.ParseCmdline(cmdline))
		if wait != want.wait || forever != want.forever {
			t.Errorf("%q: %v %v", cmdline, wait, forever)
		}
	}
}

// Where nothing is left to start, the machine waits longer from time to time, and at most ten minutes.
func TestRecoveryPausesGrow(t *testing.T) {
	for n := 1; n < 12; n++ {
		this, next := recoveryPause(n), recoveryPause(n+1)
		if this < 10*time.Second || next < this || next > 10*time.Minute || n < 6 && next == this {
			t.Errorf("%d: %v, then %v", n, this, next)
		}
	}
}
