package provision

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
)

// self is a number that the test can give files to.
func self() int {
	if os.Geteuid() != 0 {
		return os.Geteuid()
	}
	return 4242
}

// newSystem is a small system below a directory, booted as role.
func newSystem(t testing.TB, role string, files map[string]string) (*System, string) {
	t.Helper()
	dir := t.TempDir()
	gid := self()
	if os.Geteuid() != 0 {
		gid = os.Getegid()
	}
	all := map[string]string{
		"etc/passwd":                           "root:x:0:0:root:/root:/bin/sh\n",
		"etc/group":                            fmt.Sprintf("root:x:0:\nsudo:x:27:\nmine:x:%d:\n", gid),
		"etc/shadow":                           "root:*:19000:0:99999:7:::\n",
		"etc/sudoers":                          "@includedir /etc/sudoers.d\n",
		"etc/machine-id":                       "0123456789abcdef0123456789abcdef\n",
		"usr/lib/systemd/systemd":              "",
		"usr/lib/systemd/systemd-timesyncd":    "",
		"usr/share/zoneinfo/Europe/Berlin":     "",
		"etc/systemd/timesyncd.conf.d/README":  "",
		layout.PersistentState + "/machine-id": "0123456789abcdef0123456789abcdef\n",
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		put(t, filepath.Join(dir, name), text)
	}
	s, err := Open(dir, layout.Boot{Role: role})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func parse(texts ...string) *config.Config {
	var files []*config.File
	for i, text := range texts {
		files = append(files, config.Parse(fmt.Sprintf("%d.yaml", i), []byte(text)))
	}
	return config.Merge(files...)
}

// apply applies a config, and returns the problems as text.
func apply(t *testing.T, s *System, c *config.Config) string {
	t.Helper()
	s.problems = nil
	problems, err := s.Apply(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, p := range problems {
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

func userYAML() string {
	return fmt.Sprintf("{name: kairos, uid: %d, primary_group: mine, passwd: kairos, groups: [admin]}", self())
}

// The config that a person of the Kairos project writes first.
func TestFirstConfig(t *testing.T) {
	s, dir := newSystem(t, layout.RoleSystem, map[string]string{"usr/bin/k3s": "#!/bin/sh\n"})
	c := parse(`#cloud-config
hostname: node-{{ trunc 4 .MachineID }}
timezone: Europe/Berlin
locale: en_US.UTF-8
ntp: {servers: [time.example]}
users:
  - ` + userYAML() + `
write_files:
  - {path: /etc/a/suid, content: "#!/bin/sh\n", permissions: 04755}
  - {path: /etc/a/quoted, content: aGVsbG8=, encoding: b64, permissions: "0600"}
  - {path: /etc/a/quoted, content: " world", append: true}
  - {path: /etc/a/template, content: "{{ .MachineID | trunc 2 }}-{{ .Values.node.machineid | trunc 2 }}"}
  - {path: /etc/a/helm, content: "{{ .Values.image.name }}"}
stages:
  initramfs:
    - name: second
      after: [{name: first}]
      files: [{path: /etc/a/stage, content: "{{ .MachineID }}\n", permissions: 0640}]
    - name: first
      files: [{path: /etc/a/stage, content: "x", permissions: 0600}]
      directories: [{path: /etc/a/sticky, permissions: 01777}]
      environment: {A: "b c"}
  boot:
    - commands: ["true"]
k3s:
  enabled: true
  args: ["--node-label a=b", "--flannel-backend=none"]
  env: {K3S_TOKEN: "se\"cret"}
runcmd:
  - exit 3
  - "this is ( no shell"
  - [touch, ran, "{{ trunc 2 .MachineID }}"]
  - touch {{ trunc 3 .MachineID }}
`)
	for range 2 { // the same at the next boot
		if problems := apply(t, s, c); problems != "" {
			t.Fatal(problems)
		}
	}
	for name, want := range map[string]string{
		"etc/hostname": "node-0123\n",
		"etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 " +
			"node-0123\n",
		"etc/timezone":                   "Europe/Berlin\n",
		"etc/locale.conf":                "LANG=en_US.UTF-8\n",
		timesyncd[1:]:                    "[Time]\nNTP=time.example\n",
		"etc/a/quoted":                   "hello world",
		"etc/a/template":                 "01-01",
		"etc/a/helm":                     "{{ .Values.image.name }}",
		"etc/a/stage":                    "0123456789abcdef0123456789abcdef\n",
		"etc/environment":                "A=\"b c\"\n",
		"run/kairos/k3s.env":             "K3S_TOKEN=\"se\\\"cret\"\n",
		layout.RunProblems:               "[]\n",
		layout.RunStages + "/boot":       "",
		"run/cos/active_mode":            "",
		"etc/sudoers.d/80-kairos-groups": "%admin ALL=(ALL:ALL) NOPASSWD: ALL\n",
	} {
		if got := get(t, dir, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]os.FileMode{
		"etc/a/suid": os.ModeSetuid | 0o755, "etc/a/quoted": 0o600, "etc/a/stage": 0o640,
		"etc/a/sticky": os.ModeDir | os.ModeSticky | 0o777, layout.KeptConfig: 0o600, "run/kairos/k3s.env": 0o600,
	} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, want %v (%v)", name, info.Mode(), want, err)
		}
	}
	unit := get(t, dir, "run/systemd/system/k3s.service")
	start := `ExecStart="/usr/bin/k3s" "server" "--node-label" "a=b" "--flannel-backend=none"` + "\n"
	if !strings.Contains(unit, start) {
		t.Errorf("unit: %s", unit)
	}
	if to, err := os.Readlink(filepath.Join(dir, "etc/localtime")); err != nil ||
		to != "/usr/share/zoneinfo/Europe/Berlin" {
		t.Errorf("localtime: %q, %v", to, err)
	}
	if to, err := os.Readlink(filepath.Join(dir,
		"run/systemd/system/multi-user.target.wants/k3s.service")); err != nil ||
		to != "/run/systemd/system/k3s.service" {
		t.Errorf("k3s is not enabled: %q, %v", to, err)
	}
	cmd := exec.Command("sh", filepath.Join(dir, layout.RunCmd))
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "these failed (counted from 0): 0 1") {
		t.Errorf("runcmd: %v\n%s", err, out)
	}
	for _, name := range []string{"ran", "01", "012"} {
		get(t, dir, name)
	}
}

// Each file and each key stands for itself, and what was right before still lets its author in.
func TestMistakes(t *testing.T) {
	s, dir := newSystem(t, layout.RoleSystem, nil)
	if problems := apply(t, s, parse("users: ["+userYAML()+"]\nhostname: good\n")); problems != "" {
		t.Fatal(problems)
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
		"etc/shadow": "root:*:::::::\n",
	} {
		put(t, filepath.Join(dir, name), text)
	}
	problems := apply(
		t,
		s,
		parse("users: [", "hostname: b4d name\ntimezone: No/Where\ninstal: {}\nusers: [{name: Wrong Name}]\n"+
			"write_files: [{path: /etc/ok, content: ok}, {path: /etc/owned, content: x, owner: nobody-here}]\nk3s: "+
			"{enabled: true}\nlocale: 7\n"+
			"stages: {initramfs: [{name: one, commands: ['exit 4', 'true']}, {if: 'false', commands: ['exit 5']}]}\n"),
	)
	for _, want := range []string{
		"0.yaml", "1.yaml", "hostname", "timezone", "users", "owned", "k3s",
		"initramfs[0]: one: commands[0]: exit status 4",
	} {
		if !strings.Contains(problems, want) {
			t.Errorf("nothing of %s in\n%s", want, problems)
		}
	}
	if strings.Contains(problems, "status 5") || strings.Contains(problems, "etc/ok") {
		t.Error(problems)
	}
	if get(t, dir, "etc/ok") != "ok" || get(t, dir, "etc/hostname") != "good\n" {
		t.Error("what is right did not take effect")
	}
	if !strings.Contains(get(t, dir, "etc/passwd"), "kairos:") ||
		!strings.Contains(get(t, dir, "etc/shadow"), "kairos:$6$") {
		t.Error("its author is locked out")
	}
	p, err := layout.ParseProblems([]byte(get(t, dir, layout.RunProblems)))
	if err != nil || len(p) == 0 || p[len(p)-1].Stage != "initramfs" {
		t.Errorf("%+v, %v", p, err)
	}
	if !strings.Contains(get(t, dir, layout.KeptConfig), "good") {
		t.Error("a config with mistakes took the place of one without")
	}
}

// bootOnce is what a boot does with a config without stages.
func bootOnce(t testing.TB, s *System) {
	text := []byte("hostname: node-{{ trunc 4 .MachineID }}\nusers: [" + userYAML() + "]\n" +
		"write_files: [{path: /etc/a, content: a}]\nruncmd: [touch /b]\n")
	s.problems = nil
	problems, err := s.Apply(t.Context(), config.Merge(config.Parse("a.yaml", text)))
	if err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
}

func BenchmarkApply(b *testing.B) {
	s, _ := newSystem(b, layout.RoleSystem, nil)
	for b.Loop() {
		bootOnce(b, s)
	}
}

// A boot spends less than 300 ms of the processor's time on such a config.
func TestBootSpendsLittle(t *testing.T) {
	least := time.Hour
	for range 3 { // the least is the config's own: others run beside it
		s, _ := newSystem(t, layout.RoleSystem, nil)
		var before, after unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
			t.Fatal(err)
		}
		bootOnce(t, s)
		if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
			t.Fatal(err)
		}
		used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
		least = min(least, time.Duration(used))
	}
	t.Log(least)
	if least > 300*time.Millisecond {
		t.Errorf("it takes %v", least)
	}
}
