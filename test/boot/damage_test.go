//go:build vm

package boot

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/gpt"
	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
)

func startDisk(t *testing.T, path string) report {
	t.Helper()
	return wait(t, vmtest.Start(t, qemu.Machine{Firmware: qemu.BIOS, NoNet: true, NoReboot: true,
		Drives: []qemu.Drive{{Path: path, Bus: qemu.Virtio}}}))
}

// partition opens a disk and says where a partition of it is.
func partition(t *testing.T, path, name string) (f *os.File, at, size int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(f, info.Size(), 512)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range table.Partitions {
		if p.Name == name {
			return f, p.First * 512, (p.Last - p.First + 1) * 512
		}
	}
	t.Fatalf("no partition %s", name)
	return nil, 0, 0
}

// A node whose PERSISTENT has lost its superblock has its data again; one whose PERSISTENT cannot be mended comes up
// in memory, says so, and leaves the partition as it is.
func TestDamagedPersistent(t *testing.T) {
	t.Parallel()
	path := makeImage(t, 2, "").disk(t, 3<<30, true)
	first := startDisk(t, path)
	f, at, size := partition(t, path, "persistent")
	if _, err := f.WriteAt(make([]byte, 4096), at); err != nil {
		t.Fatal(err)
	}
	r := startDisk(t, path)
	if r.Boot.Role != layout.RoleSystem || r.Boot.Persistent != "" || r.Written["/home"] != "1" ||
		r.MachineID != first.MachineID ||
		!strings.Contains(strings.Join(r.Boot.Problems, "\n"), "was damaged and is repaired") {
		t.Errorf("%+v", r)
	}
	noise := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for off := int64(0); off+int64(len(noise)) < size; off += 128 << 20 { // the groups: each superblock
		if _, err := f.WriteAt(noise, at+off); err != nil {
			t.Fatal(err)
		}
	}
	before := make([]byte, 300<<20)
	if _, err := f.ReadAt(before, at); err != nil {
		t.Fatal(err)
	}
	r = startDisk(t, path)
	if r.Boot.Role != layout.RoleSystem || r.Boot.Persistent != layout.PersistentInMemory ||
		r.Written["/home"] != "0" ||
		r.MachineID == "" ||
		!strings.Contains(strings.Join(r.Boot.Problems, "\n"), "PERSISTENT cannot be used") {
		t.Errorf("%+v", r)
	}
	after := make([]byte, len(before))
	if _, err := f.ReadAt(after, at); err != nil || !bytes.Equal(before, after) {
		t.Error("the partition was changed", err)
	}
}

// A node whose PERSISTENT is full starts, and what cannot be kept can be written.
func TestFullPersistent(t *testing.T) {
	t.Parallel()
	path := makeImage(t, 2, "").disk(t, 0, true)
	_, at, _ := partition(t, path, "persistent")
	dir := t.TempDir()
	var script strings.Builder
	for i, size := range []int{1 << 20, 4096} {
		file := filepath.Join(dir, fmt.Sprint(size))
		if err := os.WriteFile(file, bytes.Repeat([]byte("full"), size/4), 0o600); err != nil {
			t.Fatal(err)
		}
		for n := range []int{64, 300}[i] {
			fmt.Fprintf(&script, "write %s %d-%d\n", file, size, n)
		}
	}
	list := filepath.Join(dir, "script")
	if err := os.WriteFile(list, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	where := fmt.Sprintf("%s?offset=%d", path, at)
	_ = exec.Command("/sbin/debugfs", "-w", "-f", list, where).Run() // it ends with the last one's error
	_ = exec.Command("/sbin/e2fsck", "-f", "-y", where).Run()
	if out, err := exec.Command("/sbin/e2fsck", "-f", "-n", where).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := startDisk(t, path)
	if r.Boot.Role != layout.RoleSystem || r.Boot.Persistent != "" || r.MachineID == "" || r.Written["/home"] != "0" ||
		!strings.Contains(strings.Join(r.Boot.Problems, "\n"), "not kept over a restart: /etc/") {
		t.Errorf("%+v", r)
	}
}
