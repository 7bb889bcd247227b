package units

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
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
	for name, s := range map[string]Script{"openrc": OpenRC(), "sysv": SysV(), "busybox": BusyBox()} {
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
	hook := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(hook, ShutdownHook, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(hook, "reboot").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("the end, without an installation: %v\n%s", err, out)
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

// Jobs of a config run beside the blessing, once per boot, and not in recovery: a long one costs no restart.
func TestLongRuncmdIsBesideTheBlessing(t *testing.T) {
	read := func(name string) map[string]string {
		b, err := FS.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		keys := map[string]string{}
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				keys[key] = value
			}
		}
		return keys
	}
	unit, bless := read("kairos-runcmd.service"), read("kairos-bless.service")
	// multi-user.target, which the blessing waits for, waits until the job has been started, and no longer.
	if unit["Type"] != "exec" || unit["RemainAfterExit"] != "yes" || unit["Restart"] != "" {
		t.Errorf("waited for, or started again: %v", unit)
	}
	for _, key := range []string{"Wants", "Requires", "After"} {
		if strings.Contains(bless[key], "runcmd") {
			t.Errorf("the blessing waits for the job: %s=%s", key, bless[key])
		}
	}
	condition, err := strconv.Unquote(strings.TrimPrefix(unit["ExecCondition"], "/bin/sh -c "))
	if err != nil {
		t.Fatalf("%s: %v", unit["ExecCondition"], err)
	}
	file := filepath.Join(t.TempDir(), "boot.json")
	condition = strings.ReplaceAll(condition, "/"+layout.RunBoot, file)
	for role, want := range map[string]bool{
		layout.RoleSystem: true, layout.RoleRecovery: false, layout.RoleLive: true,
	} {
		if err := os.WriteFile(file, layout.Boot{Role: role}.Marshal(), 0o600); err != nil {
			t.Fatal(err)
		}
		if runs := exec.Command("sh", "-c", condition).Run() == nil; runs != want {
			t.Errorf("%s: it runs: %v, want %v", role, runs, want)
		}
	}
}
