package medium

import (
	"strings"
	"testing"
)

func FuzzISOLabel(f *testing.F) {
	f.Add([]byte("\x01CD001\x01"), "COS_LIVE")
	f.Fuzz(func(t *testing.T, b []byte, label string) {
		sector := make([]byte, 2048)
		copy(sector, b)
		if got := parseISOLabel(sector); len(got) > 32 || got != strings.TrimRight(got, " \x00") {
			t.Errorf("label %q", got)
		}
		copy(sector, "\x01CD001\x01")
		copy(sector[40:72], label+strings.Repeat(" ", 32))
		if got, want := parseISOLabel(sector), strings.TrimRight(label[:min(len(label), 32)], " \x00"); got != want {
			t.Errorf("label %q, want %q", got, want)
		}
	})
}
