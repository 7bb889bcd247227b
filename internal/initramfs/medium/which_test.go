package medium

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/initramfs/efi"
)

// fakeClass makes a /sys/class with disks at these places.
func fakeClass(t *testing.T, places map[string]string) string {
	t.Helper()
	root := t.TempDir()
	class := filepath.Join(root, "class")
	for name, place := range places {
		at := filepath.Join(root, "devices", place, "block", name)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(class, "block"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(at, filepath.Join(class, "block", name)); err != nil {
			t.Fatal(err)
		}
	}
	for ata, n := range map[string]string{"ata1": "1\n", "ata5": "3\n"} {
		file := filepath.Join(class, "ata_port", ata, "port_no")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, n := range map[string]string{"nvme0n1": "1\n", "nvme0n2": "2\n"} {
		if _, ok := places[name]; ok {
			if err := os.WriteFile(filepath.Join(class, "block", name, "nsid"), []byte(n), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return class
}

// Of two disks that look alike, the one is taken that the firmware has started from, or none.
func TestWhichDisk(t *testing.T) {
	class := fakeClass(t, map[string]string{
		"vda":     "pci0000:00/0000:00:03.0/virtio1",
		"vdb":     "pci0000:00/0000:00:04.0/virtio2",
		"sda":     "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0",
		"sdb":     "pci0000:00/0000:00:1f.2/ata5/host4/target4:0:0/4:0:0:0",
		"sdc":     "pci0000:00/0000:00:05.0/virtio3/host6/target6:0:1/6:0:1:2",
		"sdd":     "pci0000:00/0000:00:05.0/virtio3/host6/target6:0:2/6:0:2:2",
		"sde":     "pci0000:00/0000:00:06.0/usb1/1-1/1-1:1.0/host7/target7:0:0/7:0:0:0",
		"sdf":     "pci0000:00/0000:00:06.0/usb1/1-2/1-2:1.0/host8/target8:0:0/8:0:0:0",
		"nvme0n1": "pci0000:00/0000:00:1c.0/0000:01:00.0/nvme/nvme0",
		"nvme0n2": "pci0000:00/0000:00:1c.0/0000:01:00.0/nvme/nvme0",
	})
	path := func(port string, pci ...string) efi.Path { return efi.Path{PCI: pci, Port: port} }
	for name, c := range map[string]struct {
		alike []string
		path  efi.Path
		known bool
		want  string
	}{
		"one":           {[]string{"/dev/vda"}, efi.Path{}, false, "/dev/vda"},
		"one elsewhere": {[]string{"/dev/vda"}, path("", "07.0"), true, "/dev/vda"},
		"nothing known": {[]string{"/dev/vda", "/dev/vdb"}, efi.Path{}, false, ""},
		"virtio":        {[]string{"/dev/vda", "/dev/vdb"}, path("", "04.0"), true, "/dev/vdb"},
		"SATA":          {[]string{"/dev/sda", "/dev/sdb"}, path("sata 2", "1f.2"), true, "/dev/sdb"},
		"SCSI": {[]string{"/dev/sdc", "/dev/sdd"},
			path("scsi 1 2", "05.0"), true, "/dev/sdc"},
		"namespaces": {[]string{"/dev/nvme0n1", "/dev/nvme0n2"},
			path("nvme 2", "1c.0", "00.0"), true, "/dev/nvme0n2"},
		"two sticks":                    {[]string{"/dev/sde", "/dev/sdf"}, path("?", "06.0"), true, ""},
		"a stick and a disk, the stick": {[]string{"/dev/sde", "/dev/vda"}, path("?", "06.0"), true, "/dev/sde"},
		"neither":                       {[]string{"/dev/vda", "/dev/vdb"}, path("", "07.0"), true, ""},
	} {
		if got := choose(class, c.alike, c.path, c.known); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// A disk and its first partition that begin with the same bytes are one medium; copies of one medium are as good as
// one.
func TestCopiesOfAMedium(t *testing.T) {
	class := fakeClass(
		t,
		map[string]string{"sda": "pci0000:00/0000:00:06.0/virtio1", "sdb": "pci0000:00/0000:00:07.0/virtio2"},
	)
	at, err := filepath.EvalSymlinks(filepath.Join(class, "block", "sda"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(at, "sda1", "partition"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(at, "sda1"), filepath.Join(class, "block", "sda1")); err != nil {
		t.Fatal(err)
	}
	if got := wholes(class, []string{"/dev/sda", "/dev/sda1", "/dev/sdb"}); len(got) != 2 || got[1] != "/dev/sdb" {
		t.Errorf("%v", got)
	}
	if got := wholes(class, []string{"/dev/sda1", "/dev/sdb"}); len(got) != 2 {
		t.Errorf("%v", got)
	}
	dir := t.TempDir()
	write := func(name string, change byte) string {
		b := make([]byte, comparedBytes)
		copy(b[16*2048:], "\x01CD001\x01")
		copy(b[16*2048+40:], "COS_LIVE                        ")
		b[1<<20] = change
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	a, b, c := write("a", 0), write("b", 0), write("c", 1)
	if !same([]string{a, b}) || same([]string{a, c}) {
		t.Error("copies are not told from others")
	}
}
