package units

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestSystemdAcceptsTheUnits(t *testing.T) {
	dir := t.TempDir()
	entries, err := fs.ReadDir(FS, ".")
	if err != nil || len(entries) == 0 {
		t.Fatal(err)
	}
	args := []string{"verify", "--man=no", "--recursive-errors=no"}
	for _, e := range entries {
		b, err := fs.ReadFile(FS, e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), "ConditionPathExists=/run/kairos/") {
			t.Errorf("%s: would start in a container", e.Name())
		}
		// The programs are those of an image, not of this machine.
		s := strings.ReplaceAll(string(b), "/usr/bin/kairos-apply", "/bin/true")
		p := filepath.Join(dir, e.Name())
		if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, p)
	}
	if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze (package systemd): %v\n%s", err, out)
	}
}

func TestShellAcceptsTheScripts(t *testing.T) {
	for name, s := range map[string]Script{"openrc": OpenRC(), "sysv": SysV()} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, s.Data, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("sh", "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if len(s.Links) == 0 && s.Inittab == "" {
			t.Errorf("%s: nothing enables it", name)
		}
	}
	// Outside of a node it does nothing.
	file := filepath.Join(t.TempDir(), "kairos")
	if err := os.WriteFile(file, SysV().Data, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", file, "start").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("in a container: %v\n%s", err, out)
	}
}
