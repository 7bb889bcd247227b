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

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/internal/disktest"
	"github.com/kairos-buildkit/kairos/disk/sparse"
	"github.com/kairos-buildkit/kairos/layout"
)

const testID = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func testSystem() System {
	return System{
		Release: layout.Release{Config: testID, Arch: "amd64"},
		Store: []filetree.File{
			filetree.Bytes("blobs/sha256/01/blob.erofs", disktest.Content("blob", 10_000_001)),
			filetree.Bytes(layout.ReleasePath("0123456789ab"), []byte("{}\n")),
		},
		UKI: disktest.Content("uki", 5_000_000), Kernel: disktest.Content("kernel", 3_000_000),
		Initrd:  disktest.Content("initrd", 2_000_000),
		Cmdline: "console=ttyS0", SystemdBoot: disktest.Content("loader", 100_000),
		BootImage: bytes.Repeat([]byte{0x90}, 512), CoreImage: disktest.Content("core", 150_001),
		OEM:  []filetree.File{filetree.Bytes("90_custom.yaml", []byte("#cloud-config\n"))},
		Time: disktest.Time, Seed: []byte("test"),
		Sizes: map[string]int64{"efi": 64 << 20}, // the others are as they come
	}
}

func (s System) image() (*sparse.Image, error) {
	d, err := s.Disk()
	if err != nil {
		return nil, err
	}
	return d.Image()
}

func TestSystemDisk(t *testing.T) {
	for name, c := range map[string]struct{ size, sector int64 }{
		"smallest": {0, 0}, "4 GiB and a bit": {4<<30 + 1536, 512},
		"sectors of 4096": {0, 4096}, "4 GiB and a bit in sectors of 4096": {4<<30 + 1536, 4096},
	} {
		t.Run(name, func(t *testing.T) {
			s := testSystem()
			s.Size, s.SectorSize = c.size, c.sector
			img := disktest.WriteSparse(t, s.image)
			checkSystemDisk(t, s, img)
			m := openMediumFile(t, img)
			if m.SectorSize != max(c.sector, 512) || m.Volumes[1].FS != "vfat" {
				t.Errorf("%+v", m)
			}
			sameFiles(t, m.Volumes[4], s.Store)
		})
	}
}

// STATE has room for what later releases are larger by, as far as the disk has.
func TestStateIsSizedForTheFuture(t *testing.T) {
	const gib = 1 << 30
	s := testSystem()
	stored := int64(0)
	for _, f := range s.Store {
		stored += f.Size
	}
	state := func(size int64, sizes map[string]int64) (state, persistent int64) {
		t.Helper()
		s.Size, s.Sizes = size, sizes
		d, err := s.Disk()
		if err != nil {
			t.Fatal(err)
		}
		total, placed, err := d.Place()
		if err != nil {
			t.Fatal(err)
		}
		if last := placed[len(placed)-1]; last.Start+last.Size > total-alignment {
			t.Errorf("%d bytes: the last partition ends at %d", total, last.Start+last.Size)
		}
		return placed[4].Size, placed[5].Size
	}
	for size, want := range map[int64]int64{
		0:          4 * stored,
		12 * gib:   12 * gib / 5,
		50 * gib:   10 * gib,
		1000 * gib: 16 * gib,
	} {
		got, rest := state(size, nil)
		if got < want || got > want+want/20+64<<20 || size > 0 && rest < size/3 {
			t.Errorf("disk of %d bytes: STATE has %d, PERSISTENT %d, want %d", size, got, rest, want)
		}
	}
	// A disk that is just large enough serves, and one that is a bit larger shares it.
	need := &SizeError{}
	s.Size, s.Sizes = gib/4, nil
	if _, err := s.image(); !errors.As(err, &need) {
		t.Fatal(err)
	}
	if got, rest := state(need.Need, nil); got < 2*stored || rest != persistentMin {
		t.Errorf("smallest disk: STATE has %d, PERSISTENT %d", got, rest)
	}
	if got, rest := state(need.Need+20<<20, nil); got < 2*stored+10<<20 || rest < persistentMin+10<<20 {
		t.Errorf("small disk: STATE has %d, PERSISTENT %d", got, rest)
	}
	if got, _ := state(50*gib, map[string]int64{"state": gib}); got != gib {
		t.Errorf("STATE has %d, and the config says %d", got, gib)
	}
}

// checkSystemDisk has foreign tools look at table and file systems.
func checkSystemDisk(t *testing.T, s System, img string) {
	t.Helper()
	if s.SectorSize == 4096 {
		checkBigSectors(t, img)
		checkFileSystems(t, s, img)
		return
	}
	// It mends one copy of the table by the other, and then finds no problem.
	if out := disktest.Tool(t, "sgdisk", "-v", img); !strings.Contains(out, "No problems found") ||
		strings.Contains(out, "aution") ||
		strings.Contains(out, "nvalid") {
		t.Error(out)
	}
	out := disktest.Tool(t, "sgdisk", "-p", img)
	for i, p := range layout.Partitions() {
		if !strings.Contains(out, p.Name) {
			t.Errorf("no partition %s in\n%s", p.Name, out)
		}
		if info := disktest.Tool(t, "sgdisk", "-i", fmt.Sprint(i+1), img); !strings.Contains(info, p.Type) {
			t.Error(info)
		}
	}
	checkFileSystems(t, s, img)
}

// checkBigSectors has fdisk look at a table, since sgdisk takes the sectors of the machine's own disk.
func checkBigSectors(t *testing.T, img string) {
	t.Helper()
	out := disktest.Tool(t, "fdisk", "-b", "4096", "-l", "-o", "Name,Type", img)
	for _, p := range layout.Partitions() {
		if !strings.Contains(out, "\n"+p.Name) {
			t.Errorf("no partition %s in\n%s", p.Name, out)
		}
	}
	if !strings.Contains(out, "1 * 4096 = 4096 bytes") || !strings.Contains(out, "Disklabel type: gpt") ||
		strings.Contains(out, "orrupt") ||
		strings.Contains(out, "mismatch") {
		t.Error(out)
	}
}

// checkFileSystems has foreign tools look at what the partitions hold.
func checkFileSystems(t *testing.T, s System, img string) {
	t.Helper()
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
		out := disktest.Tool(t, "blkid", "-p", "-O", fmt.Sprint(p.Start), "-S", fmt.Sprint(p.Size), img)
		if !strings.Contains(out, `LABEL="`+p.Label+`"`) {
			t.Errorf("%s: %s", p.Name, out)
		}
		if p.FS == "vfat" {
			part := filepath.Join(t.TempDir(), p.Name)
			disktest.Tool(
				t,
				"dd",
				"if="+img,
				"of="+part,
				"bs=1M",
				"conv=sparse",
				fmt.Sprintf("skip=%d", p.Start>>20),
				fmt.Sprintf("count=%d", p.Size>>20),
			)
			disktest.Tool(t, "fsck.vfat", "-n", part)
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
	raw := disktest.WriteSparse(t, s.image)
	q := disktest.WriteSparse(t, func() (*sparse.Image, error) {
		m, err := s.image()
		if err != nil {
			return nil, err
		}
		return QCOW2(m)
	})
	if info, err := os.Stat(q); err != nil || info.Size() > 200<<20 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	if out := disktest.Tool(t, "qemu-img", "check", q); !strings.Contains(out, "No errors were found") {
		t.Error(out)
	}
	out := disktest.Tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, q)
	if !strings.Contains(out, "identical") {
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
	checkSystemDisk(t, s, disktest.WriteSparse(t, s.image))
}
