package blockdev

import (
	"strings"
	"testing"
)

func TestVerityTable(t *testing.T) {
	root := strings.Repeat("ab", 32)
	got := Verity{Device: "/dev/loop3", Size: 40960, RootHash: root}.table()
	want := "1 /dev/loop3 /dev/loop3 4096 4096 10 11 sha256 " + root + " " + strings.Repeat("00", 32)
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
