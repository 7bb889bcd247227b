package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMachineID(t *testing.T) {
	id := string(newMachineID())
	if !validMachineID(id) || id == string(newMachineID()) {
		t.Errorf("%q", id)
	}
	for _, bad := range []string{"", "uninitialized", "x", strings.Repeat("0", 32), strings.Repeat("g", 32)} {
		if validMachineID(bad) {
			t.Errorf("%q is valid", bad)
		}
	}
}

func TestOutermost(t *testing.T) {
	got := outermost([]string{"/var", "/etc/ssh", "/home", "/etc", "/var/log/x", "/homes", "/home"})
	if d := cmp.Diff([]string{"/etc", "/home", "/homes", "/var"}, got); d != "" {
		t.Error(d)
	}
}
