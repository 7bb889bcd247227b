package node

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/layout"
)

// recorder counts the writes to a disk.
type recorder struct {
	*os.File
	writes []string
	bytes  int
}

func (r *recorder) WriteAt(p []byte, off int64) (int, error) {
	r.writes = append(r.writes, fmt.Sprintf("%d+%d", off, len(p)))
	r.bytes += len(p)
	return r.File.WriteAt(p, off)
}

func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// openImage opens a volume, and records what is written to it.
func openImage(t *testing.T, img string) (*fatDisk, *recorder) {
	t.Helper()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r := &recorder{File: f}
	d, err := openFAT(r)
	if err != nil {
		t.Fatal(err)
	}
	return d, r
}

// fatImage makes a volume with mkfs.fat and puts files into EFI/Linux with mtools.
func fatImage(t testing.TB, bits int, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	img := filepath.Join(dir, "fat.img")
	size := map[int]int64{12: 1 << 20, 16: 32 << 20, 32: 64 << 20}[bits]
	if err := os.WriteFile(img, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, size); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.fat", "-F", fmt.Sprint(bits), "-s", "1", img)
	tool(t, "mmd", "-i", img, "::EFI", "::EFI/Linux", "::EFI/BOOT")
	for name, content := range files {
		f := filepath.Join(dir, "f")
		if err := os.WriteFile(f, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		tool(t, "mcopy", "-i", img, f, "::"+name)
	}
	return img
}

func TestRenameOnFATIsOneSector(t *testing.T) {
	for _, bits := range []int{12, 16, 32} {
		files := map[string]string{}
		var entries []layout.Entry
		for i := range 60 { // several clusters of folder, slots across all boundaries
			e := entry(uint32(i+1), fmt.Sprintf("%012x", i), 3)
			entries = append(entries, e)
			files["EFI/Linux/"+stagedName(e)] = strings.Repeat(e.ID, 100)
		}
		img := fatImage(t, bits, files)
		d, r := openImage(t, img)
		if d.bits != bits {
			t.Fatalf("FAT%d taken for FAT%d", bits, d.bits)
		}
		for _, e := range entries {
			for _, names := range [][2]string{
				{stagedName(e), e.String()},                                   // commit
				{e.String(), entry(e.Seq, e.ID, 2).String()},                  // a try
				{entry(e.Seq, e.ID, 2).String(), entry(e.Seq, e.ID).String()}, // bless
			} {
				r.writes, r.bytes = nil, 0
				if err := d.Rename("EFI/Linux", names[0], names[1]); err != nil {
					t.Fatal(err)
				}
				if len(r.writes) != 1 || r.bytes != 512 {
					t.Fatalf("writes: %v", r.writes)
				}
			}
		}
		if out, err := exec.Command("fsck.fat", "-n", img).CombinedOutput(); err != nil {
			t.Fatalf("FAT%d: fsck.fat (package dosfstools): %v\n%s", bits, err, out)
		}
		for _, e := range entries {
			name := entry(e.Seq, e.ID).String()
			if got := tool(t, "mtype", "-i", img, "::EFI/Linux/"+name); got != strings.Repeat(e.ID, 100) {
				t.Errorf("FAT%d: %s has %d other bytes", bits, name, len(got))
			}
		}
	}
}

// A boot entry lies in one sector, so that no power cut tears one that comes or goes: on the ESP of a new
// disk, and whatever comes and goes then.
func TestBootEntryIsInOneSector(t *testing.T) {
	img := newESP(t)
	d, _ := openImage(t, img)
	seen := 0
	check := func() {
		t.Helper()
		cluster, err := d.dir(layout.UKIDir)
		if err != nil {
			t.Fatal(err)
		}
		all, err := d.list(cluster)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if _, err := layout.ParseEntry(e.name); err != nil {
				continue
			}
			seen++
			if first, last := e.slots[0], e.slots[len(e.slots)-1]; first/d.sector != last/d.sector {
				t.Errorf("%s: from byte %d to %d of its sector", e.name, first%d.sector, last%d.sector)
			}
		}
	}
	check()
	uki := filepath.Join(t.TempDir(), "uki")
	if err := os.WriteFile(uki, []byte("uki"), 0o644); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 1))
	var there []string
	for seq := range uint32(60) {
		e := entry(seq+2, idB)
		if seq%2 == 0 {
			e = entry(seq+2, idB, 3)
		}
		there = append(there, "::"+layout.UKIDir+"/"+e.String())
		tool(t, "mcopy", "-i", img, uki, there[len(there)-1])
		if seq%3 > 0 {
			i := random.IntN(len(there))
			tool(t, "mdel", "-i", img, there[i])
			there = slices.Delete(there, i, i+1)
		}
		check()
	}
	if seen < 500 {
		t.Errorf("only %d entries were seen", seen)
	}
}

// newESP is the ESP of a disk as it is installed.
func newESP(t *testing.T) string {
	t.Helper()
	d, err := disk.System{
		Release: layout.Release{Config: layout.Digest("sha256:" + strings.Repeat("0", 64)), Arch: "amd64"}, UKI: []byte("uki"), SystemdBoot: []byte("loader"),
		Time: time.Unix(1_800_000_000, 0), Seed: []byte("test"), Sizes: map[string]int64{"efi": 32 << 20},
	}.Disk()
	if err != nil {
		t.Fatal(err)
	}
	files := d.Partitions[slices.IndexFunc(d.Partitions, func(p disk.Partition) bool { return p.Name == "efi" })].Files
	m, err := disk.FAT{Label: "ESP", Size: 32 << 20, Time: time.Unix(1_800_000_000, 0), Files: files}.Image()
	if err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(t.TempDir(), "esp")
	f, err := os.Create(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.WriteTo(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	return img
}

// A name is taken away in one write, and what it had is free then, but for what a torn chain shares with another file.
func TestRemoveOnFAT(t *testing.T) {
	img := newESP(t)
	uki := filepath.Join(t.TempDir(), "uki")
	if err := os.WriteFile(uki, bytes.Repeat([]byte("uki"), 10000), 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "mmd", "-i", img, "::kairos", "::kairos/"+idA, "::kairos/"+idB)
	gone, stays := "::EFI/Linux/"+entry(2, idA, 3).String(), "::EFI/Linux/"+entry(3, idB).String()
	for _, to := range []string{gone, stays, "::kairos/" + idA + "/vmlinuz", "::kairos/" + idA + "/initrd", "::kairos/" + idB + "/vmlinuz"} {
		tool(t, "mcopy", "-i", img, uki, to)
	}
	d, r := openImage(t, img)
	find := func(dir, name string) fatEntry {
		cluster, err := d.dir(dir)
		if err != nil {
			t.Fatal(err)
		}
		e, err := d.lookup(cluster, name)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	// The file that goes has, by its name, the other one's clusters.
	torn, whole := find("EFI/Linux", entry(2, idA, 3).String()), find("EFI/Linux", entry(3, idB).String())
	if _, err := r.File.WriteAt(whole.raw[26:28], torn.slots[len(torn.slots)-1]+26); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{{"EFI/Linux", entry(2, idA, 3).String()}, {"kairos", idA}} {
		r.writes = nil
		if err := d.Remove(c[0], c[1]); err != nil {
			t.Fatal(err)
		}
		if len(r.writes) != 1 {
			t.Errorf("%s: writes %v", c[1], r.writes)
		}
		if err := d.Remove(c[0], c[1]); err == nil {
			t.Errorf("%s: removed twice", c[1])
		}
	}
	// One file without its name, and two in a folder without its own.
	perFile := (30000 + d.cluster - 1) / d.cluster * d.cluster
	if freed, err := d.Reclaim(); err != nil || freed != 3*perFile+d.cluster {
		t.Errorf("freed %d bytes, %v; want %d", freed, err, 3*perFile+d.cluster)
	}
	if out := tool(t, "fsck.fat", "-n", img); strings.Contains(out, "Reclaim") || strings.Contains(out, "differ") || strings.Contains(out, "fragment") {
		t.Error(out)
	}
	for _, name := range []string{stays, "::kairos/" + idB + "/vmlinuz"} {
		if got := tool(t, "mtype", "-i", img, name); got != strings.Repeat("uki", 10000) {
			t.Errorf("%s has %d other bytes", name, len(got))
		}
	}
	if out := tool(t, "mdir", "-b", "-/", "-i", img); strings.Contains(out, idA+"+") || strings.Contains(out, "kairos/"+idA) {
		t.Error(out)
	}
}

// Clusters that nothing refers to are free afterwards, what files and folders have stays, and the FATs agree.
func TestReclaimOnFAT(t *testing.T) {
	for _, bits := range []int{16, 32} {
		files := map[string]string{}
		for i := range 60 { // the folder has several clusters
			files[fmt.Sprintf("EFI/Linux/a file with a long name %d", i)] = strings.Repeat("content", 300*i)
		}
		img := fatImage(t, bits, files)
		d, f := openImage(t, img)
		if freed, err := d.Reclaim(); freed != 0 || err != nil {
			t.Errorf("FAT%d: a sound volume: %d bytes, %v", bits, freed, err)
		}
		sound, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		// A chain without a name, at the end of the volume; the second FAT has a part of it.
		put := func(at int64, next uint32) {
			b := binary.LittleEndian.AppendUint32(nil, next)
			if _, err := f.WriteAt(b[:bits/8], at); err != nil {
				t.Fatal(err)
			}
		}
		const lost = 300 // more than a sector of the FAT
		for i := range uint32(lost) {
			c := d.clusters - lost + i
			next := c + 1
			if i == lost-1 {
				next = 0x0fffffff
			}
			put(d.fat+int64(c)*int64(bits)/8, next)
			if i < lost/2 {
				put(d.fat+d.fatSize+int64(c)*int64(bits)/8, next)
			}
		}
		bad := d.clusters - lost - 9
		for i := range d.copies {
			put(d.fat+i*d.fatSize+int64(bad)*int64(bits)/8, fatBad)
		}
		freed, err := d.Reclaim()
		if err != nil || freed != lost*d.cluster {
			t.Errorf("FAT%d: freed %d bytes, %v; want %d", bits, freed, err, lost*d.cluster)
		}
		for i := range d.copies {
			put(d.fat+i*d.fatSize+int64(bad)*int64(bits)/8, 0) // it was kept, so that now all is as it was
		}
		if now, err := os.ReadFile(img); err != nil || !bytes.Equal(now, sound) {
			t.Errorf("FAT%d: another volume than before (%v)", bits, err)
		}
	}
}

func TestExchangeOnFATIsOneSector(t *testing.T) {
	img := fatImage(t, 16, map[string]string{"EFI/BOOT/BOOTX64.EFI": "old loader", "EFI/BOOT/BOOTX64.TMP": strings.Repeat("new", 1000)})
	d, r := openImage(t, img)
	if err := d.Exchange("EFI/BOOT", "BOOTX64.EFI", "BOOTX64.TMP"); err != nil {
		t.Fatal(err)
	}
	if len(r.writes) != 1 {
		t.Errorf("writes: %v", r.writes)
	}
	tool(t, "fsck.fat", "-n", img)
	if got := tool(t, "mtype", "-i", img, "::EFI/BOOT/BOOTX64.EFI"); got != strings.Repeat("new", 1000) {
		t.Errorf("loader has %q", got[:20])
	}
	if got := tool(t, "mtype", "-i", img, "::EFI/BOOT/BOOTX64.TMP"); got != "old loader" {
		t.Errorf("old loader has %q", got)
	}
}

func TestRenameOnFATRefuses(t *testing.T) {
	a, b := entry(1, idA, 3), entry(2, idB, 3)
	img := fatImage(t, 16, map[string]string{"EFI/Linux/" + a.String(): "a", "EFI/Linux/" + b.String(): "b"})
	d, r := openImage(t, img)
	for name, c := range map[string][3]string{
		"no such folder": {"EFI/Nothing", a.String(), stagedName(a)},
		"no such file":   {"EFI/Linux", "kairos.efi", "kairos.tmp"},
		"name exists":    {"EFI/Linux", a.String(), b.String()},
		"other length":   {"EFI/Linux", a.String(), a.String() + ".and.much.longer"},
		"other place":    {"EFI/Linux", a.String(), entry(3, idA, 2).String()},
	} {
		if err := d.Rename(c[0], c[1], c[2]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if len(r.writes) > 0 {
		t.Errorf("wrote %v", r.writes)
	}
	for name, b := range map[string][]byte{"zeros": make([]byte, 4096), "short": {1}} {
		if _, err := openFAT(memoryDisk{bytes.NewReader(b)}); err == nil {
			t.Errorf("%s: accepted as FAT", name)
		}
	}
}

type memoryDisk struct{ *bytes.Reader }

func (memoryDisk) WriteAt([]byte, int64) (int, error) { return 0, io.ErrShortWrite }
