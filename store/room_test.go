package store

import (
	"math"
	"testing"
)

func TestMaxContent(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for free, want := range map[int64]int64{
		-1: 128 * mib, 0: 128 * mib, 10 * mib: 160 * mib, gib: 16 * gib, 16 * gib: 256 * gib,
		math.MaxInt64: 256 * gib,
	} {
		if got := MaxContent(free); got != want {
			t.Errorf("%d bytes free: %d, want %d", free, got, want)
		}
	}
	if n, err := Free(t.TempDir()); err != nil || n <= 0 {
		t.Errorf("%d bytes free (%v)", n, err)
	}
	if _, err := Free("/nonexistent"); err == nil {
		t.Error("a folder that does not exist has room")
	}
}
