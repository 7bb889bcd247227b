package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// fakeRoot is a root with the user files of a small system, booted as role.
func fakeRoot(t *testing.T, role string, config string) string {
	t.Helper()
	root := t.TempDir()
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\nsudo:x:27:\n", "etc/shadow": "root:*:19000:0:99999:7:::\n",
		layout.RunBoot: string(layout.Boot{Role: role, Release: idA, Firmware: "uefi"}.Marshal()),
	}
	if role == layout.RoleLive {
		files[filepath.Join(layout.RunStoreMount, layout.LiveCloudConfig)] = config
	} else {
		files["oem/90_custom.yaml"] = config
		files["oem/notes.txt"] = "not yaml: ["
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const testConfig = `#cloud-config
hostname: n1
users:
  - default
  - name: ops
    gecos: Operator
    groups: sudo, wheel
    passwd: $6$x$y
    shell: /bin/bash
    sudo: ALL=(ALL) NOPASSWD:ALL
    ssh_authorized_keys: [key-1]
  - name: "bad:name"
ssh_authorized_keys: [key-2]
write_files:
  - {path: /etc/a/b, content: aGVsbG8=, encoding: b64, permissions: "0600"}
  - {path: /etc/a/b, content: " world", append: true}
runcmd:
  - echo one
  - [echo, "it's", two]
install: {auto: true, device: auto}
`

func TestConfigTakesEffectWithoutCloudInit(t *testing.T) {
	root := fakeRoot(t, layout.RoleSystem, testConfig)
	err := ApplyConfig(root)
	if err == nil || !strings.Contains(err.Error(), "bad:name") {
		t.Errorf("the bad name: %v", err)
	}
	// Twice is once: /etc may be the same at the next boot.
	ApplyConfig(root)
	for name, want := range map[string]string{
		"etc/hostname":                  "n1\n",
		"etc/passwd":                    "root:x:0:0:root:/root:/bin/sh\nops:x:1000:1000:Operator:/home/ops:/bin/bash\n",
		"etc/group":                     "root:x:0:\nsudo:x:27:ops\nops:x:1000:\nwheel:x:1001:ops\n",
		"etc/shadow":                    "root:*:19000:0:99999:7:::\nops:$6$x$y:19000:0:99999:7:::\n",
		"home/ops/.ssh/authorized_keys": "key-1\nkey-2\n",
		"etc/sudoers.d/90-kairos-ops":   "ops ALL=(ALL) NOPASSWD:ALL\n",
		"run/kairos/runcmd":             "echo one\n'echo' 'it'\"'\"'s' 'two'\n",
	} {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || string(b) != want {
			t.Errorf("%s is %q, want %q (%v)", name, b, want, err)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "home/ops")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("home: %v, %v", info, err)
	}
	id, err := os.ReadFile(filepath.Join(root, "etc/machine-id"))
	if err != nil || len(strings.TrimSpace(string(id))) != 32 {
		t.Errorf("machine-id %q, %v", id, err)
	}
	// The same after an upgrade, when /etc is another one.
	os.Remove(filepath.Join(root, "etc/machine-id"))
	ApplyConfig(root)
	if again, err := os.ReadFile(filepath.Join(root, "etc/machine-id")); err != nil || string(again) != string(id) {
		t.Errorf("machine-id %q, was %q (%v)", again, id, err)
	}
}

func TestConfigGoesToCloudInitWhereThereIsOne(t *testing.T) {
	root := fakeRoot(t, layout.RoleLive, testConfig)
	if err := os.MkdirAll(filepath.Join(root, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "usr/bin/cloud-init"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := ApplyConfig(root); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "var/lib/cloud/seed/nocloud/user-data"))
	if err != nil || !strings.HasPrefix(string(b), "#cloud-config\n") || !strings.Contains(string(b), "hostname: n1") || strings.Contains(string(b), "install:") {
		t.Errorf("user-data %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(root, "etc/hostname")); err == nil {
		t.Error("applied beside cloud-init")
	}
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte("a: 1\nl: [x]\ninstall: {device: auto}"), []byte("a: 2\nl: [y]\ninstall: {auto: true, partitions: {oem: {size: 128}}, grub_options: {extra_cmdline: quiet}}"))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Install.Auto || c.Install.Device != "auto" || c.Install.Partitions["oem"].Size != 128 || c.All["a"] != 2 || len(c.All["l"].([]any)) != 2 {
		t.Errorf("%+v", c)
	}
	r := withCmdline(layout.Release{Labels: map[string]string{layout.ImageLabelCmdline: "x=1"}}, c)
	if r.Labels[layout.ImageLabelCmdline] != "x=1 quiet" {
		t.Errorf("labels %v", r.Labels)
	}
	if _, err := ParseConfig(nil, []byte("")); err != nil {
		t.Errorf("empty: %v", err)
	}
	for _, bad := range []string{
		"a: [", "- list", "install: {reboot: true, poweroff: true}", "install: {unknown: 1}", "install: {partitions: {data: {size: 1}}}",
		"install: {partitions: {bios: {size: 1}}}", "install: {extra-partitions: [{name: state, size: 1}]}", "install: {extra-partitions: [{name: x, size: 1, fs: btrfs}]}",
		"install: {bind_mounts: [relative]}", "install: {source: 'dir:'}", "install: {grub_options: {default: x}}",
	} {
		if _, err := ParseConfig([]byte(bad)); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func TestHealth(t *testing.T) {
	for name, c := range map[string]struct {
		checks map[string]string // path: script
		says   string            // "" is healthy
	}{
		"none":           {},
		"all pass":       {checks: map[string]string{layout.ImageHealthDir + "/10-a": "exit 0", layout.HealthDir + "/20-b": "exit 0"}},
		"one fails":      {checks: map[string]string{layout.ImageHealthDir + "/10-a": "exit 0", layout.HealthDir + "/20-b": "echo no disk; exit 3"}, says: "health check 20-b: exit status 3"},
		"the node's own": {checks: map[string]string{layout.ImageHealthDir + "/10-a": "exit 1", layout.HealthDir + "/10-a": "exit 0"}},
		"one hangs":      {checks: map[string]string{layout.ImageHealthDir + "/10-a": "sleep 60 & sleep 60"}, says: "health check 10-a did not end in time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, _ := threeImages(t)
			disk := t.TempDir()
			m := install(t, disk, "uefi", t.TempDir(), a)
			if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
				t.Fatal(err)
			}
			m = fakeMachine(t, disk, "uefi", b.id, t.TempDir(), nil)
			m.Boot.Trial, m.Boot.Deadline = true, 5
			for path, script := range c.checks {
				file := m.path(path)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			got, err := m.Bless(t.Context())
			if c.says == "" {
				if err != nil || got.Outcome != "blessed" {
					t.Errorf("%+v, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || got.Outcome != "unhealthy" {
				t.Errorf("%+v, %v; want %q", got, err, c.says)
			}
			report, err := os.ReadFile(filepath.Join(m.State.Dir(), layout.FailurePath(b.id)))
			if err != nil || !strings.HasPrefix(string(report), c.says) {
				t.Errorf("report %q, %v", report, err)
			}
			if _, err := os.Stat(m.path(layout.RunBlessed)); err == nil {
				t.Error("the guard was sent away")
			}
			if _, err := os.Stat(m.path(layout.RunUnhealthy)); err != nil {
				t.Errorf("the guard does not know of the report: %v", err)
			}
			// The next release that boots says so at its login prompt.
			useUp(t, m, b.id)
			m = fakeMachine(t, disk, "uefi", a.id, t.TempDir(), nil)
			if err := m.Banner(); err != nil {
				t.Fatal(err)
			}
			if text, err := os.ReadFile(m.path("run/issue.d/kairos.issue")); err != nil || !strings.Contains(string(text), c.says) || !strings.Contains(string(text), b.id) {
				t.Errorf("banner %q, %v", text, err)
			}
		})
	}
}
