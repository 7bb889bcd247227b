package blockdev

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// machine is a kernel that has things stacked on a disk: a mount and swap on LVM on a RAID.
type machine struct {
	t         *testing.T
	sys, proc string
	done      []string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, sys: t.TempDir(), proc: t.TempDir()}
	m.put(m.sys, "sda/sda1/partition", "1\n")
	m.put(m.sys, "sda1/holders/md0", "")
	m.put(m.sys, "md0/dev", "9:0\n")
	m.put(m.sys, "md0/holders/dm-0", "")
	m.put(m.sys, "md0/holders/dm-1", "")
	for name, lv := range map[string]string{"dm-0": "group-root", "dm-1": "group-swap"} {
		m.put(m.sys, name+"/dm/name", lv+"\n")
		m.put(m.sys, name+"/dm/uuid", "LVM-abc\n")
		m.put(m.sys, name+"/dev", "253:"+name[3:]+"\n")
	}
	m.put(m.proc, "self/mountinfo", "21 1 253:0 / /srv rw - ext4 /dev/dm-0 rw\n")
	m.put(m.proc, "swaps", "Filename Type Size Used Priority\n/dev/dm-1 partition 1 0 -2\n")
	return m
}

func (m *machine) put(root, name, text string) {
	m.t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) exists(root, name string) bool {
	_, err := os.Stat(filepath.Join(root, name))
	return err == nil
}

// ends are what the kernel allows: nothing goes that is in use.
func (m *machine) ends() map[string]func(string) error {
	note := func(what string) error { m.done = append(m.done, what); return nil }
	return map[string]func(string) error{
		mountKind: func(dir string) error {
			m.put(m.proc, "self/mountinfo", "")
			return note("umount " + dir)
		},
		swapKind: func(device string) error {
			m.put(m.proc, "swaps", "")
			return note("swapoff " + device)
		},
		dmKind: func(name string) error {
			dm := map[string]string{"group-root": "dm-0", "group-swap": "dm-1"}[name]
			mounts, _ := os.ReadFile(filepath.Join(m.proc, "self/mountinfo"))
			swaps, _ := os.ReadFile(filepath.Join(m.proc, "swaps"))
			if dm == "dm-0" && len(mounts) > 0 || dm == "dm-1" && len(swaps) > 0 {
				return unix.EBUSY
			}
			os.Remove(filepath.Join(m.sys, "md0/holders", dm))
			return note("remove " + name)
		},
		mdKind: func(device string) error {
			if m.exists(m.sys, "md0/holders/dm-0") || m.exists(m.sys, "md0/holders/dm-1") {
				return unix.EBUSY
			}
			os.Remove(filepath.Join(m.sys, "sda1/holders/md0"))
			return note("stop " + device)
		},
	}
}

// What is stacked on a disk ends from the top, and what is in use stays and is named.
func TestRelease(t *testing.T) {
	m := newMachine(t)
	ended, err := release(m.sys, m.proc, "/dev/sda", m.ends())
	if err != nil || len(ended) != 5 || len(users(m.sys, m.proc, "/dev/sda")) > 0 {
		t.Errorf("%v, %v", ended, err)
	}
	want := []string{"umount /srv", "swapoff /dev/dm-1", "remove group-swap", "remove group-root", "stop /dev/md0"}
	if d := cmp.Diff(want, m.done); d != "" {
		t.Error(d)
	}

	m = newMachine(t)
	ends := m.ends()
	ends[mountKind] = func(string) error { return unix.EBUSY }
	_, err = release(m.sys, m.proc, "/dev/sda", ends)
	if err == nil ||
		!strings.Contains(err.Error(), "/dev/dm-0 is mounted on /srv: umount /srv (device or resource busy)") ||
		strings.Contains(err.Error(), "swap") {
		t.Errorf("%v", err)
	}
	if !m.exists(m.sys, "sda1/holders/md0") {
		t.Error("a RAID was stopped that is in use")
	}

	m = newMachine(t)
	m.put(m.sys, "sda1/holders/bcache0", "")
	if _, err := release(m.sys, m.proc, "/dev/sda", m.ends()); err == nil ||
		!strings.Contains(err.Error(), "is used by /dev/bcache0") {
		t.Errorf("%v", err)
	}
}
