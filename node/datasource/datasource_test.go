package datasource

import (
	"bytes"
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/config"
)

// machine is a root with devices.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t, t.TempDir()}
	for _, dir := range []string{"sys/class/block", "dev"} {
		if err := os.MkdirAll(filepath.Join(m.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// attach adds a device, and returns the path of its bytes.
func (m *machine) attach(name string) string {
	if err := os.Mkdir(filepath.Join(m.root, "sys/class/block", name), 0o755); err != nil {
		m.t.Fatal(err)
	}
	return filepath.Join(m.root, "dev", name)
}

func (m *machine) run(name string, args ...string) {
	m.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// tree writes files, and returns their folder.
func (m *machine) tree(files map[string]string) string {
	dir := m.t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			m.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			m.t.Fatal(err)
		}
	}
	return dir
}

// iso attaches an ISO 9660 volume, as people make them for cloud-init.
func (m *machine) iso(device, label string, files map[string]string) {
	m.t.Helper()
	m.run("genisoimage", "-quiet", "-output", m.attach(device), "-volid", label, "-joliet", "-rock", m.tree(files))
}

// vfat attaches a FAT volume.
func (m *machine) vfat(device, label string, files map[string]string) {
	m.t.Helper()
	image := m.attach(device)
	m.run("mkfs.vfat", "-C", "-n", label, image, "2048")
	dir := m.tree(files)
	for name := range files {
		m.run("mcopy", "-i", image, filepath.Join(dir, name), "::"+name)
	}
}

// ext4 attaches an ext4 volume of a folder.
func (m *machine) ext4(device, label, dir string) {
	m.t.Helper()
	m.run("mke2fs", "-q", "-t", "ext4", "-L", label, "-d", dir, m.attach(device), "8m")
}

func (m *machine) find() []Config {
	m.t.Helper()
	found, err := Find(m.root)
	if err != nil {
		m.t.Fatal(err)
	}
	return found
}

// All volumes count, in an order that says who counts more, and other devices are left alone.
func TestFind(t *testing.T) {
	m := newMachine(t)
	m.iso("sr0", "config-2", map[string]string{
		"openstack/latest/user_data":      "#cloud-config\nruncmd: [drive]\n",
		"openstack/latest/meta_data.json": `{"hostname": "drive", "public_keys": {"b": "ssh-b\n", "a": "ssh-a"}}`,
	})
	m.vfat("sda1", "CIDATA", map[string]string{
		"user-data": "#cloud-config\nruncmd: [stick]\n",
		"meta-data": "instance-id: x\nlocal-hostname: stick\n",
	})
	m.iso("sr1", "other", map[string]string{"user-data": "#cloud-config\n"})
	m.iso("loop0", "cidata", map[string]string{"user-data": "#cloud-config\n"})
	if err := os.WriteFile(m.attach("sdb"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m.attach("sdc") // a reader without a medium
	var got []string
	for _, c := range m.find() {
		if c.Err != nil {
			t.Errorf("%s: %v", c.Name, c.Err)
		}
		got = append(got, c.Name+"\n"+string(c.Data))
	}
	want := []string{
		"/dev/sda1 (CIDATA): meta-data\nhostname: stick\n",
		"/dev/sda1 (CIDATA): user-data\n#cloud-config\nruncmd: [stick]\n",
		"/dev/sr0 (config-2): openstack/latest/meta_data.json\nhostname: " +
			"drive\nssh_authorized_keys:\n    - ssh-a\n    - ssh-b\n",
		"/dev/sr0 (config-2): openstack/latest/user_data\n#cloud-config\nruncmd: [drive]\n",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A link on a volume leads nowhere, and a file has a bound.
func TestHostileVolume(t *testing.T) {
	m := newMachine(t)
	dir := m.tree(map[string]string{"meta-data": strings.Repeat("#", config.MaxSize+1)})
	if err := os.Symlink("/etc/shadow", filepath.Join(dir, "user-data")); err != nil {
		t.Fatal(err)
	}
	m.ext4("vdb", "cidata", dir)
	for _, c := range m.find() {
		if c.Err == nil || len(c.Data) > 0 {
			t.Errorf("%s: %d bytes", c.Name, len(c.Data))
		}
	}
}

func TestUserData(t *testing.T) {
	const yaml = "#cloud-config\nhostname: x\n"
	packed := func(text string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write([]byte(text))
		z.Close()
		return b.String()
	}
	multi := func(parts ...string) string {
		return "Content-Type: multipart/mixed; boundary=\"==x==\"\nMIME-Version: 1.0\n\n--==x==\n" +
			strings.Join(parts, "\n--==x==\n") + "\n--==x==--\n"
	}
	const part = "Content-Type: text/cloud-config; charset=\"utf-8\"\n"
	for _, tc := range []struct{ name, data, want, err string }{
		{name: "plain", data: yaml, want: yaml},
		{name: "empty", data: " \n"},
		{name: "gzip", data: packed(yaml), want: yaml},
		{name: "gzip bomb", data: packed(strings.Repeat("#", config.MaxSize+1)), err: "gzip: it has more than"},
		{name: "torn gzip", data: packed(yaml)[:20], err: "gzip"},
		{name: "message", data: multi(part + "\n" + yaml), want: yaml},
		{
			name: "base64",
			data: multi(part + "Content-Transfer-Encoding: base64\n\nI2Nsb3VkLWNvbmZpZwpob3N0bmFtZTogeAo="),
			want: yaml,
		},
		{name: "one part", data: part + "\n" + yaml, want: yaml},
		{name: "two", data: multi(part+"\n"+yaml, part+"\n"+yaml), err: "more than one cloud-config"},
		{name: "script", data: multi("Content-Type: text/x-shellscript\n\n#!/bin/sh\n"), err: "text/x-shellscript"},
		{name: "no kind", data: multi("X: y\n\nz"), err: "part 1"},
		{name: "many", data: multi(strings.Split(strings.Repeat("Content-Type: text/cloud-config\n\n|", 70), "|")...),
			err: ""},
	} {
		got, err := userData([]byte(tc.data))
		if tc.name == "many" {
			if err == nil {
				t.Errorf("%s: accepted", tc.name)
			}
			continue
		}
		if strings.TrimSpace(string(got)) != strings.TrimSpace(tc.want) || (err != nil) != (tc.err != "") ||
			err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %q, %v", tc.name, got, err)
		}
	}
}

func FuzzUserData(f *testing.F) {
	f.Add([]byte("#cloud-config\n"))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Add(
		[]byte(
			"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/cloud-config\n\nhostname: " +
				"x\n--x--\n",
		),
	)
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := userData(b); err != nil && got != nil {
			t.Errorf("%d bytes beside %v", len(got), err)
		}
		noCloud(b)
		configDrive(b)
	})
}
