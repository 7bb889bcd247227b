package blockdev

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDisks(t *testing.T) {
	sys := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sda", "sr0", "cciss!c0d0", "loop0", "dm-3", "zram0", "sda1", "sda10"} {
		put(name+"/size", "1\n")
	}
	for name, n := range map[string]string{"sda1": "1", "sda10": "10", "sda2": "2"} {
		put("sda/"+name+"/partition", n+"\n")
		put("sda/"+name+"/uevent", "MAJOR=8\nPARTNAME=name of "+n+"\n")
		put(name+"/partition", n+"\n")
	}
	put("cciss!c0d0/cciss!c0d0p1/partition", "1\n")
	want := []string{"/dev/cciss/c0d0", "/dev/sda", "/dev/sr0", "/dev/sda1", "/dev/sda10", "/dev/sda2"}
	if d := cmp.Diff(want, list(sys)); d != "" {
		t.Error(d)
	}
	parts := []Partition{
		{1, "/dev/sda1", "name of 1"},
		{2, "/dev/sda2", "name of 2"},
		{10, "/dev/sda10", "name of 10"},
	}
	if d := cmp.Diff(parts, partitions(sys, "/dev/sda")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Partition{{1, "/dev/cciss/c0d0p1", ""}}, partitions(sys, "/dev/cciss/c0d0")); d != "" {
		t.Error(d)
	}
}
