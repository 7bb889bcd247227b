package report

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

func TestLastLinesAreWhole(t *testing.T) {
	if got := string(lastLines([]byte("one\ntwo\nthree\n"), 8)); got != "three\n" {
		t.Errorf("%q", got)
	}
	if got := string(lastLines([]byte("one\n"), 8)); got != "one\n" {
		t.Errorf("%q", got)
	}
}

// A recovery system on trial reports into its own store; one that is not has nobody to report to.
func TestWhoReports(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "device")
	for b, want := range map[*layout.Boot]bool{
		{Role: layout.RoleSystem}: true, {Role: layout.RoleRecovery, Trial: true}: true,
		{Role: layout.RoleRecovery}: false, {Role: layout.RoleLive}: false,
	} {
		if err := Failure(*b, missing, errors.New("x")); (err != nil) != want {
			t.Errorf("%+v: %v", b, err)
		}
	}
}
