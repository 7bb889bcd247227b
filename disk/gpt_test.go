package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

const testID = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func testSystem() System {
	return System{
		Release: layout.Release{Config: testID, Arch: "amd64"},
		Store: []File{
			Bytes("blobs/sha256/01/blob.erofs", content("blob", 10_000_001)),
			Bytes(layout.ReleasePath("0123456789ab"), []byte("{}\n")),
		},
		UKI: content("uki", 5_000_000), Kernel: content("kernel", 3_000_000), Initrd: content("initrd", 2_000_000),
		Cmdline: "console=ttyS0", SystemdBoot: content("loader", 100_000),
		BootImage: bytes.Repeat([]byte{0x90}, 512), CoreImage: content("core", 150_001),
		OEM:  []File{Bytes("90_custom.yaml", []byte("#cloud-config\n"))},
		Time: testTime, Seed: []byte("test"),
		Sizes: map[string]int64{"efi": 64 << 20}, // the others are as they come
	}
}

func (s System) image() (*Image, error) {
	d, err := s.Disk()
	if err != nil {
		return nil, err
	}
	return d.Image()
}

func TestSystemDisk(t *testing.T) {
	for name, size := range map[string]int64{"smallest": 0, "4 GiB and a bit": 4<<30 + 1536} {
		t.Run(name, func(t *testing.T) {
			s := testSystem()
			s.Size = size
			img := writeSparse(t, s.image)
			checkSystemDisk(t, s, img)
		})
	}
}

// checkSystemDisk has foreign tools look at table and file systems.
func checkSystemDisk(t *testing.T, s System, img string) {
	t.Helper()
	// It mends one copy of the table by the other, and then finds no problem.
	if out := tool(t, "sgdisk", "-v", img); !strings.Contains(out, "No problems found") || strings.Contains(out, "aution") || strings.Contains(out, "nvalid") {
		t.Error(out)
	}
	out := tool(t, "sgdisk", "-p", img)
	for i, p := range layout.Partitions() {
		if !strings.Contains(out, p.Name) {
			t.Errorf("no partition %s in\n%s", p.Name, out)
		}
		if info := tool(t, "sgdisk", "-i", fmt.Sprint(i+1), img); !strings.Contains(info, p.Type) {
			t.Error(info)
		}
	}
	d, err := s.Disk()
	if err != nil {
		t.Fatal(err)
	}
	_, placed, err := d.Place()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range placed {
		if p.FS == "" {
			continue
		}
		if out := tool(t, "blkid", "-p", "-O", fmt.Sprint(p.Start), "-S", fmt.Sprint(p.Size), img); !strings.Contains(out, `LABEL="`+p.Label+`"`) {
			t.Errorf("%s: %s", p.Name, out)
		}
		if p.FS == "vfat" {
			part := filepath.Join(t.TempDir(), p.Name)
			tool(t, "dd", "if="+img, "of="+part, "bs=1M", "conv=sparse", fmt.Sprintf("skip=%d", p.Start>>20), fmt.Sprintf("count=%d", p.Size>>20))
			tool(t, "fsck.vfat", "-n", part)
			continue
		}
		part := fmt.Sprintf("%s?offset=%d", img, p.Start)
		e2fsck(t, part)
		checkExt4Content(t, part, p.Files)
	}
}

func TestSystemDiskIsReproducible(t *testing.T) {
	sum := func(s System) string {
		m, err := s.image()
		if err != nil {
			t.Fatal(err)
		}
		w := writeHash{sha256.New()}
		if err := m.WriteSparse(t.Context(), w, 0); err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(w.Sum(nil))
	}
	one := sum(testSystem())
	if two := sum(testSystem()); one != two {
		t.Error("two disks of the same system differ")
	}
	other := testSystem()
	other.Seed = []byte("other")
	if sum(other) == one {
		t.Error("another seed gives the same disk")
	}
}

// writeHash is a hash of all writes and where they go.
type writeHash struct{ hash.Hash }

func (w writeHash) WriteAt(b []byte, at int64) (int, error) {
	fmt.Fprintf(w, "%d+%d ", at, len(b))
	return w.Write(b)
}

// A device with old content becomes as sound as a new one, its old tables included.
func TestSystemDiskOverOldContent(t *testing.T) {
	s := testSystem()
	m, err := s.image()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "device")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := int64(0); at < m.Size; at += 1 << 20 {
		if _, err := f.Write(bytes.Repeat([]byte{0xa5}, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.WriteOver(t.Context(), f, 0); err != nil {
		t.Fatal(err)
	}
	checkSystemDisk(t, s, name)
}

func TestQCOW2(t *testing.T) {
	s := testSystem()
	s.Size = 8 << 30
	raw := writeSparse(t, s.image)
	q := writeSparse(t, func() (*Image, error) {
		m, err := s.image()
		if err != nil {
			return nil, err
		}
		return QCOW2(m)
	})
	if info, err := os.Stat(q); err != nil || info.Size() > 200<<20 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	if out := tool(t, "qemu-img", "check", q); !strings.Contains(out, "No errors were found") {
		t.Error(out)
	}
	if out := tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, q); !strings.Contains(out, "identical") {
		t.Error(out)
	}
}

func TestDiskRefuses(t *testing.T) {
	s := testSystem()
	s.Size = 90 << 20
	var size *SizeError
	if _, err := s.image(); !errors.As(err, &size) || size.Need < 150<<20 {
		t.Errorf("too small: %v", err)
	}
	s.Size = size.Need
	if _, err := s.image(); err != nil {
		t.Errorf("the size that is said to be needed: %v", err)
	}
	for name, change := range map[string]func(*System){
		"unknown partition": func(s *System) { s.Sizes = map[string]int64{"home": 1 << 30} },
		"small state":       func(s *System) { s.Sizes = map[string]int64{"state": 8 << 20} },
		"small ESP":         func(s *System) { s.Sizes = map[string]int64{"efi": 12 << 20} },
		"architecture":      func(s *System) { s.Release.Arch = "s390x" },
		"no UKI":            func(s *System) { s.UKI = nil },
		"half of GRUB":      func(s *System) { s.BootImage = nil },
		"large core.img":    func(s *System) { s.CoreImage = make([]byte, 2<<20) },
		"odd file system": func(s *System) {
			s.Extra = []layout.Partition{{Name: "x", Type: layout.TypeLinux, FS: "xfs", Size: 1 << 20}}
		},
		"odd type": func(s *System) { s.Extra = []layout.Partition{{Name: "x", Type: "linux", Size: 1 << 20}} },
	} {
		s := testSystem()
		change(&s)
		if _, err := s.image(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Machines without BIOS boot have no GRUB anywhere.
func TestSystemDiskForUEFIOnly(t *testing.T) {
	s := testSystem()
	s.Release.Arch, s.BootImage, s.CoreImage, s.Kernel, s.Initrd = "arm64", nil, nil, nil, nil
	s.Extra = []layout.Partition{{Name: "data", Label: "DATA", Type: layout.TypeLinux, FS: "ext4", Size: 20 << 20}}
	d, err := s.Disk()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range d.Partitions[1].Files {
		if strings.HasPrefix(f.Path, "grub") || strings.HasPrefix(f.Path, layout.GrubKernelDir+"/") {
			t.Errorf("%s on a disk for UEFI only", f.Path)
		}
	}
	checkSystemDisk(t, s, writeSparse(t, s.image))
}
