package node

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
)

// A node that could not use PERSISTENT says so in its status, also for programs, and at its login prompt.
func TestPersistentInMemory(t *testing.T) {
	disk := t.TempDir()
	m := fakeMachine(t, disk, "uefi", idA, t.TempDir(), nil)
	m.Boot.Persistent = layout.PersistentInMemory
	m.Boot.Problems = []string{"PERSISTENT cannot be used: it is damaged"}
	s, err := m.Status()
	if err != nil || s.Persistent != api.PersistentInMemory || len(s.Problems) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if b, err := json.Marshal(s); err != nil || !strings.Contains(string(b), `"persistent":"memory"`) {
		t.Errorf("%s, %v", b, err)
	}
	if err := m.Banner(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"run/issue.d/kairos.issue", "run/motd.d/kairos"} {
		if b, err := os.ReadFile(m.path(name)); err != nil ||
			!strings.Contains(string(b), "PERSISTENT cannot be used") {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestPersistentFull(t *testing.T) {
	for _, c := range []struct {
		bytes, inodes, ofInodes int64
		want                    string
	}{
		{1 << 30, 1000, 2000, ""}, {1 << 30, 0, 0, ""},
		{1 << 20, 1000, 2000, "is full (1 MiB free)"}, {1 << 30, 5, 2000, "room for 5 more files"},
	} {
		if got := fullPersistent(c.bytes, c.inodes, c.ofInodes); (got == "") != (c.want == "") ||
			!strings.Contains(got, c.want) {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
