package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What people write first: a file of the Kairos project's documentation, in own words.
const first = `#cloud-config
users:
- name: kairos
  passwd: kairos
  groups: [admin]
  ssh_authorized_keys: ["github:octocat"]
hostname: "node-{{ trunc 4 .MachineID }}"
install:
  auto: yes
  device: auto
  partitions.oem.size: 60
stages:
  boot.after:
  - name: greet
    commands: [echo hello]
    files:
    - {path: /run/greeting, permissions: 0600, content: hi}
write_files:
- {path: /etc/a, permissions: "4755"}
k3s: {enabled: true, args: [--disable=traefik]}
`

func parse(t *testing.T, texts ...string) *Config {
	t.Helper()
	var files []*File
	for i, text := range texts {
		files = append(files, Parse(string(rune('a'+i))+".yaml", []byte(text)))
	}
	return Merge(files...)
}

func TestFirst(t *testing.T) {
	c := parse(t, first)
	r := c.Report()
	if err := r.Err(); err != nil || len(r.Ignored) > 0 {
		t.Fatalf("%v, ignored: %v", err, r.Ignored)
	}
	lines := map[string]int{}
	for _, a := range r.Applied {
		lines[a.Path] = a.Pos.Line
	}
	for path, line := range map[string]int{
		"users[0].passwd": 4, "install.partitions.oem.size": 11, "stages.boot.after[0].commands": 15,
		"write_files[0].permissions": 19,
	} {
		if lines[path] != line {
			t.Errorf("%s: line %d, want %d", path, lines[path], line)
		}
	}
	if i := c.Install(); !i.Auto || i.Device != "auto" || i.Sizes["oem"] != 60<<20 {
		t.Errorf("install: %+v", i)
	}
	want := []User{
		{
			Pos:    Pos{"a.yaml", 3, 3},
			Name:   "kairos",
			Passwd: "kairos",
			Groups: []string{"admin"},
			Keys:   []string{"github:octocat"},
			UID:    -1,
		},
	}
	if d := cmp.Diff(want, c.Users()); d != "" {
		t.Error(d)
	}
	if steps := c.Steps("boot.after"); len(steps) != 1 || steps[0].Name != "greet" {
		t.Errorf("steps: %+v", steps)
	}
	if b, err := c.Get("stages.boot.after[0].files[0]").YAML(); err != nil ||
		!strings.Contains(string(b), "permissions: 0600") {
		t.Errorf("a mode is not a number: %v\n%s", err, b)
	}
	if f := c.WriteFiles(); f[0].Mode != 0o4755 {
		t.Errorf("mode %o", f[0].Mode)
	}
	if k := c.Kubernetes(); len(k) != 1 || !k[0].Enabled || len(k[0].Args) != 1 {
		t.Errorf("k3s: %+v", k)
	}
}
