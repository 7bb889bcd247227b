package firstboot

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/gpt"
	"github.com/kairos-buildkit/kairos/layout"
)

const mib = 1 << 20

// memory is a disk that knows what is durable. cut is called before each write, and before and after each fsync.
type memory struct {
	durable []byte
	pending map[int64][]byte // sectors
	order   []int64
	cut     func(*memory)
}

const sector = 512

func (m *memory) ReadAt(b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(m.durable).ReadAt(b, off)
	for s := off / sector; s*sector < off+int64(n); s++ {
		if p := m.pending[s]; p != nil {
			from := max(off, s*sector)
			copy(b[from-off:n], p[from-s*sector:])
		}
	}
	return n, err
}

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > int64(len(m.durable)) {
		return 0, errors.New("behind the end of the disk")
	}
	if m.cut != nil {
		m.cut(m)
	}
	for n := 0; n < len(b); {
		s := (off + int64(n)) / sector
		p := m.pending[s]
		if p == nil {
			p = bytes.Clone(m.durable[s*sector:][:sector])
			m.pending[s] = p
			m.order = append(m.order, s)
		}
		n += copy(p[off+int64(n)-s*sector:], b[n:])
	}
	return len(b), nil
}

func (m *memory) Sync() error {
	if m.cut != nil {
		m.cut(m)
	}
	for s, p := range m.pending {
		copy(m.durable[s*sector:], p)
	}
	m.pending, m.order = map[int64][]byte{}, nil
	if m.cut != nil {
		m.cut(m)
	}
	return nil
}

// with runs do on the disk that a power cut leaves which spares some of what was not durable, and takes it back.
func (m *memory) with(spared []int64, do func(disk []byte)) {
	undo := map[int64][]byte{}
	for _, s := range spared {
		undo[s] = bytes.Clone(m.durable[s*sector:][:sector])
		copy(m.durable[s*sector:], m.pending[s])
	}
	do(m.durable)
	for s, p := range undo {
		copy(m.durable[s*sector:], p)
	}
}

// rawImage is a raw image in small, on a disk of a size.
func rawImage(t *testing.T, size, least int64) []byte {
	t.Helper()
	dir := t.TempDir()
	disk := make([]byte, size)
	at := int64(mib)
	var parts []gpt.Partition
	for i, p := range layout.Partitions() {
		length := map[string]int64{"bios": mib, "efi": 34 * mib, "oem": 4 * mib, "recovery": 8 * mib, "state": 8 * mib,
			"persistent": 4 * mib}[p.Name]
		file := filepath.Join(dir, p.Name)
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(length), f.Close()); err != nil {
			t.Fatal(err)
		}
		var cmd *exec.Cmd
		switch p.FS {
		case "ext4":
			content := filepath.Join(dir, "content-"+p.Name)
			err := os.Mkdir(content, 0o755)
			if err == nil {
				err = os.WriteFile(filepath.Join(content, "name"), []byte(p.Name), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			cmd = exec.Command(
				"/sbin/mke2fs",
				"-q",
				"-t",
				"ext4",
				"-b",
				"4096",
				"-O",
				"metadata_csum,metadata_csum_seed,64bit,^resize_inode",
				"-L",
				p.Label,
				"-U",
				"11111111-2222-3333-4444-555555555555",
				"-d",
				content,
				file,
			)
		case "vfat":
			cmd = exec.Command("/sbin/mkfs.vfat", "-F", "32", "-n", p.Label, "-i", "12345678", file)
		}
		if cmd != nil {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		copy(disk[at:], b)
		parts = append(
			parts,
			gpt.Partition{
				Number: i + 1,
				GUID:   "1111111" + string(rune('0'+i)) + "-2222-3333-4444-555555555555",
				Type:   p.Type,
				Name:   p.Name,
				First:  at / sector,
				Last:   (at+length)/sector - 1,
			},
		)
		at += length
	}
	// The table is that of the image, which is smaller than the disk.
	const id = "31111111-2222-3333-4444-555555555555"
	g, err := gpt.New(id, (at+mib)/sector, sector, parts)
	if err != nil {
		t.Fatal(err)
	}
	chunks, err := g.Chunks()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		copy(disk[c.At:], c.Data)
	}
	disk[446+4], disk[446+8], disk[510], disk[511] = 0xee, 1, 0x55, 0xaa
	copy(disk[layout.FirstBootAt:], layout.FirstBoot{Disk: id, State: least}.Marshal())
	return disk
}

// boot is what /init does with a disk.
func boot(t *testing.T, d *memory) (t2 *gpt.Table, adapted bool) {
	t.Helper()
	table, err := gpt.Read(d, int64(len(d.durable)), sector)
	if err != nil {
		t.Fatal(err)
	}
	if table.Damage != gpt.Sound {
		if err := table.Write(d); err != nil {
			t.Fatal(err)
		}
	}
	f, ok := Pending(d, table)
	if !ok {
		return table, false
	}
	if err := Adapt(d, table, f); err != nil {
		t.Fatal(err)
	}
	return table, true
}

// judge says whether a disk has had its first boot as a whole.
func judge(t *testing.T, disk []byte, state int64) {
	t.Helper()
	table, err := gpt.Read(bytes.NewReader(disk), int64(len(disk)), sector)
	if err != nil || table.Damage != gpt.Sound {
		t.Fatalf("%+v, %v", table, err)
	}
	dir := t.TempDir()
	if table.GUID()[:8] == "31111111" {
		t.Error("the disk has the image's GUID")
	}
	end := int64(0)
	for _, p := range table.Partitions {
		if strings.HasPrefix(p.GUID, "1111111") || p.First <= end {
			t.Errorf("%+v", p)
		}
		end = p.Last
		size := (p.Last - p.First + 1) * sector
		if p.Name == "state" && size != state {
			t.Errorf("STATE has %d bytes, want %d", size, state)
		}
		if p.Name == "persistent" && int64(len(disk))-(p.Last+1)*sector > 8*mib {
			t.Errorf("PERSISTENT ends at %d of %d", (p.Last+1)*sector, len(disk))
		}
		if p.Name == "bios" {
			continue
		}
		file := filepath.Join(dir, p.Name)
		if err := os.WriteFile(file, disk[p.First*sector:(p.Last+1)*sector], 0o600); err != nil {
			t.Fatal(err)
		}
		if p.Name == "efi" {
			if out, err := exec.Command("/sbin/fsck.vfat", "-n", file).CombinedOutput(); err != nil ||
				bytes.Contains(disk[p.First*sector:][:8192], []byte{0x78, 0x56, 0x34, 0x12}) {
				t.Errorf("efi: %v: %s", err, out)
			}
			continue
		}
		if out, err := exec.Command("/sbin/e2fsck", "-f", "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", p.Name, err, out)
		}
		if out, err := exec.Command("/sbin/debugfs", "-R", "cat /name", file).Output(); err != nil ||
			string(out) != p.Name {
			t.Errorf("%s has %q, %v", p.Name, out, err)
		}
		out, err := exec.Command("/sbin/debugfs", "-R", "stats -h", file).Output()
		if err != nil || bytes.Contains(out, []byte("11111111-2222")) {
			t.Errorf("%s has the image's UUID: %v", p.Name, err)
		}
	}
}

// A disk is its own after the first boot: as large as it is, with the sizes that an installation gives it.
func TestFirstBoot(t *testing.T) {
	for name, c := range map[string]struct{ size, least, state int64 }{
		// 60 MiB and the space for the table's copy are taken; STATE gets what it wants, or half of the rest.
		"large": {160 * mib, 24 * mib, 32 * mib}, "least": {100 * mib, 22 * mib, 22 * mib},
		"half": {80 * mib, 40 * mib, 17 * mib}, "as the image": {61 * mib, 24 * mib, 8 * mib},
		"too small to move": {66 * mib, 24 * mib, 8 * mib}, "fixed": {160 * mib, 0, 8 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			d := &memory{durable: rawImage(t, c.size, c.least), pending: map[int64][]byte{}}
			if _, adapted := boot(t, d); !adapted || len(d.pending) > 0 {
				t.Errorf("adapted %v, %d sectors are not durable", adapted, len(d.pending))
			}
			judge(t, d.durable, c.state)
			if _, adapted := boot(t, d); adapted {
				t.Error("it was adapted twice")
			}
		})
	}
}

// Two copies of an image are not the same disk afterwards.
func TestCopiesDiffer(t *testing.T) {
	image := rawImage(t, 80*mib, 0)
	seen := map[string]bool{}
	for range 2 {
		table, _ := boot(t, &memory{durable: bytes.Clone(image), pending: map[int64][]byte{}})
		for _, id := range append([]string{table.GUID()}, func() (ids []string) {
			for _, p := range table.Partitions {
				ids = append(ids, p.GUID)
			}
			return ids
		}()...) {
			if seen[id] {
				t.Errorf("%s is there twice", id)
			}
			seen[id] = true
		}
	}
}

// A power cut before each write, and before and after each fsync, leaves a disk whose next boot makes it whole. What
// was not durable is there in part.
func TestPowerCutInFirstBoot(t *testing.T) {
	const size, state = 100 * mib, 22 * mib
	random := rand.New(rand.NewPCG(1, 2))
	cuts, checked := 0, 0
	d := &memory{durable: rawImage(t, size, state), pending: map[int64][]byte{}}
	d.cut = func(m *memory) {
		cuts++
		var spared []int64
		for _, s := range m.order {
			if random.IntN(2) == 0 {
				spared = append(spared, s)
			}
		}
		m.with(spared, func(disk []byte) {
			again := &memory{durable: bytes.Clone(disk), pending: map[int64][]byte{}}
			boot(t, again)
			boot(t, again)
			// The checkers take most of the time.
			if cuts%4 == 0 {
				checked++
				judge(t, again.durable, state)
			}
		})
	}
	if _, adapted := boot(t, d); !adapted {
		t.Fatal("not adapted")
	}
	judge(t, d.durable, state)
	if cuts < 20 || checked < 5 {
		t.Errorf("%d cuts, %d checked", cuts, checked)
	}
}
