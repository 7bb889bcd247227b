package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
)

// fakeRoot is a root with the user files of a small system, booted as role.
func fakeRoot(t *testing.T, role string, config string) string {
	t.Helper()
	root := t.TempDir()
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\nsudo:x:27:\n",
		"etc/shadow":   "root:*:19000:0:99999:7:::\n",
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

// What a config does is tested in package provision; here, that a node reads it, and shows what is wrong with it.
func TestConfigTakesEffect(t *testing.T) {
	root := fakeRoot(t, layout.RoleSystem, "hostname: n1\nunknown_key: 1\n")
	for name, text := range map[string]string{
		layout.ImageConfigDir + "/10.yaml":      "hostname: images\nwrite_files: [{path: /etc/a, content: image}]\n",
		layout.PersistentConfigDir + "/20.yaml": "write_files: [{path: /etc/b, content: node}]\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := ApplyConfig(root); err == nil || !strings.Contains(err.Error(), "90_custom.yaml:2: unknown_key") {
		t.Errorf("the unknown key: %v", err)
	}
	for name, want := range map[string]string{"etc/hostname": "n1\n", "etc/a": "image", "etc/b": "node"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != want {
			t.Errorf("%s is %q, want %q (%v)", name, b, want, err)
		}
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
	m := &Machine{Root: root, Boot: layout.Boot{Role: layout.RoleSystem}}
	if p := m.statusProblems(); len(p) != 1 || p[0].Path != "unknown_key" || p[0].Where != "90_custom.yaml:2" {
		t.Errorf("status has %+v", p)
	}
	missing := layout.MarshalProblems([]layout.Problem{{Path: "ssh_authorized_keys", Message: "not fetched yet"}})
	if err := os.WriteFile(filepath.Join(root, layout.RunKeysMissing), missing, 0o644); err != nil {
		t.Fatal(err)
	}
	if p := m.statusProblems(); len(p) != 2 || p[1].Message != "not fetched yet" {
		t.Errorf("status has %+v", p)
	}
}

// What a program of the config prints may be a secret: root sees it in status, and the login prompt does not show it.
func TestOutputOfStagesIsForRoot(t *testing.T) {
	root := fakeRoot(t, layout.RoleSystem, "stages: {initramfs: [{commands: ['echo s3cret; exit 3']}]}\n")
	if err := ApplyConfig(root); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the console is told: %v", err)
	}
	m := &Machine{Root: root, Boot: layout.Boot{Role: layout.RoleSystem}}
	if p := m.statusProblems(); len(p) != 1 || p[0].Message != "commands[0]: exit status 3: s3cret" {
		t.Errorf("status has %+v", p)
	}
	if err := m.Banner(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "run/motd.d/kairos"))
	if err != nil || strings.Contains(string(b), "s3cret") || !strings.Contains(string(b), "exit status 3") {
		t.Errorf("banner %q, %v", b, err)
	}
}

// A stage that fails makes a release unhealthy where the config says so.
func TestStrictStages(t *testing.T) {
	for text, want := range map[string]bool{
		"stages: {initramfs: [{commands: ['exit 3']}]}\n":               false,
		"strict: true\nstages: {initramfs: [{commands: ['exit 3']}]}\n": true,
		"strict: true\nstages: {boot: [{commands: ['exit 3']}]}\n":      true,
		"strict: true\nstages: {boot: [{commands: ['exit 0']}]}\n":      false,
		"strict: true\nunknown_key: 1\n":                                false,
	} {
		root := fakeRoot(t, layout.RoleSystem, text)
		_ = ApplyConfig(root)
		_ = RunStage(t.Context(), root, "boot")
		if why := failedStage(root, layout.Boot{Role: layout.RoleSystem}); (why != "") != want {
			t.Errorf("%q: %q", text, why)
		}
	}
}

func TestCheckInstall(t *testing.T) {
	c := config.Merge(config.Parse("a", []byte("install: {grub_options: {extra_cmdline: quiet}}")))
	r := withCmdline(layout.Release{Labels: map[string]string{layout.ImageLabelCmdline: "x=1"}}, c.Install())
	if r.Labels[layout.ImageLabelCmdline] != "x=1 quiet" {
		t.Errorf("labels %v", r.Labels)
	}
	for text, ok := range map[string]bool{
		"": true, "install: {auto: true}": true, "install: {source: 'oci:registry.example/os:v1'}": true,
		"a: [": false, "install: {unknown: 1}": false, "install: {source: 'dir:'}": false,
		"install: {recovery-system: {source: 'dir:'}}": false,
	} {
		err := checkInstall(config.Merge(config.Parse("a", []byte(text))))
		var refused *RefusedError
		if ok && err != nil || !ok && !errors.As(err, &refused) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestScriptDevice(t *testing.T) {
	for device, want := range map[string]string{
		"": "", "auto": "auto", "/dev/sda": "/dev/sda", "script:///bin/echo /dev/vda": "/dev/vda",
		"script:///usr/bin/printenv DISK": "/dev/vdb",
		"script:///bin/echo":              "!", "script:///bin/false": "!", "script:///bin/echo /dev/a /dev/b": "!",
		"script://": "!", "script:///bin/echo sda": "!",
	} {
		got, err := scriptDevice(t.Context(), device, map[string]string{"DISK": "/dev/vdb"})
		if want == "!" && err == nil || want != "!" && (err != nil || got != want) {
			t.Errorf("%q: %q, %v", device, got, err)
		}
	}
}

func TestHealth(t *testing.T) {
	for name, c := range map[string]struct {
		checks map[string]string // path: script
		says   string            // "" is healthy
		hangs  bool              // it says that it runs, by the FIFO "runs", and the deadline comes then
	}{
		"none": {},
		"all pass": {checks: map[string]string{
			layout.ImageHealthDir + "/10-a": "exit 0",
			layout.HealthDir + "/20-b":      "exit 0",
		}},
		"one fails": {checks: map[string]string{
			layout.ImageHealthDir + "/10-a": "exit 0",
			layout.HealthDir + "/20-b":      "echo no disk; exit 3",
		}, says: "health check 20-b: exit status 3"},
		"the node's own": {checks: map[string]string{
			layout.ImageHealthDir + "/10-a": "exit 1",
			layout.HealthDir + "/10-a":      "exit 0",
		}},
		"one hangs": {checks: map[string]string{
			layout.ImageHealthDir + "/10-a": "echo > $(dirname $0)/runs; sleep 600 & sleep 600",
		},
			says: "health check 10-a did not end in time", hangs: true},
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
			m.Boot.Trial = true
			for path, script := range c.checks {
				file := m.path(path)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.hangs {
				runs := filepath.Join(m.path(layout.ImageHealthDir), "runs")
				if err := unix.Mkfifo(runs, 0o600); err != nil {
					t.Fatal(err)
				}
				go func() {
					_, _ = os.ReadFile(runs)
					cancel()
				}()
			}
			got, err := bless(ctx, m)
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
			if _, err := os.Stat(m.path(layout.RunHealthy)); err == nil {
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
			if text, err := os.ReadFile(m.path("run/issue.d/kairos.issue")); err != nil ||
				!strings.Contains(string(text), c.says) ||
				!strings.Contains(string(text), b.id) {
				t.Errorf("banner %q, %v", text, err)
			}
		})
	}
}

// A config names further folders: they are read after all others.
func TestCloudInitPaths(t *testing.T) {
	root := fakeRoot(t, layout.RoleSystem, "hostname: oem\ncloud-init-paths: [/some/path, /oem, /missing]\n")
	for name, text := range map[string]string{
		"some/path/10.yaml": "hostname: further\ncloud-init-paths: [/third]\nwrite_files: [{path: /a}]\n",
		"third/10.yaml":     "hostname: third\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := ReadBoot(root)
	if err != nil {
		t.Fatal(err)
	}
	if c := NodeConfig(root, b); c.Hostname() != "further" || len(c.WriteFiles()) != 1 {
		t.Errorf("hostname %s, files %v", c.Hostname(), c.WriteFiles())
	}
}
