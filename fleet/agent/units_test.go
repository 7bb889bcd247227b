package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var units = filepath.Join("..", "..", "deploy", "node")

func TestSystemdAcceptsTheUnits(t *testing.T) {
	dir := t.TempDir()
	args := []string{"verify", "--man=no", "--recursive-errors=no"}
	for _, name := range []string{"kairos-status.service", "kairos-status.timer", "kairos-status.path"} {
		b, err := os.ReadFile(filepath.Join(units, name))
		if err != nil {
			t.Fatal(err)
		}
		// What kairos-apply says is of SyslogLevel: below LogLevelMax nobody would read why it fails.
		s := string(b)
		if strings.Contains(s, "LogLevelMax=notice\n") && !strings.Contains(s, "\nSyslogLevel=notice\n") {
			t.Errorf("%s: the journal does not have what goes wrong", name)
		}
		if !strings.Contains(string(b), "ConditionPathExists=/run/kairos/") {
			t.Errorf("%s: would start in a container", name)
		}
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, p)
	}
	if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze (package systemd): %v\n%s", err, out)
	}
}

// What the unit runs replaces the file as a whole, keeps it from other users, and leaves it where the command fails.
func TestStatusIsWrittenWhole(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(units, "kairos-status.service"))
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(b), "ExecStart=/bin/sh -ec ")
	line, _, _ = strings.Cut(line, "\n")
	script, err := strconv.Unquote(line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	bin, dir := t.TempDir(), t.TempDir()
	run := func(apply string) error {
		for name, text := range map[string]string{
			"kairos-apply": apply,
			"chgrp":        `test "$1" = 65532 && test "$(stat -c %a "$2")" = 600`, // for who is not root
		} {
			if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		c := exec.Command("/bin/sh", "-ec", "umask 0077; "+script)
		c.Dir, c.Env = dir, []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
		return c.Run()
	}
	read := func() string {
		b, _ := os.ReadFile(filepath.Join(dir, "status.json"))
		return string(b)
	}
	if err := run(`echo "$@"`); err != nil || read() != "status -o json\n" {
		t.Fatalf("%v, %q", err, read())
	}
	if info, err := os.Stat(filepath.Join(dir, "status.json")); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	if err := run("echo half; exit 1"); err == nil || read() != "status -o json\n" {
		t.Errorf("a command that failed: %v, %q", err, read())
	}
}
