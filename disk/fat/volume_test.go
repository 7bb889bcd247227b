package fat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

const (
	idA = "aaaaaaaaaaaa"
	idB = "bbbbbbbbbbbb"
)

func bootEntry(seq uint32, id string, left ...uint8) layout.Entry {
	e := layout.Entry{Seq: seq, ID: id}
	if len(left) > 0 {
		e.Counted, e.Left, e.Done = true, left[0], layout.Tries-left[0]
	}
	return e
}

// stagedName is what a UKI is called before it may be booted.
func stagedName(e layout.Entry) string { return strings.TrimSuffix(e.String(), ".efi") + ".tmp" }

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
func openImage(t *testing.T, img string) (*Volume, *recorder) {
	t.Helper()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r := &recorder{File: f}
	d, err := Open(r)
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
		for i := range 60 { // several clusters of folder, dirents across all boundaries
			e := bootEntry(uint32(i+1), fmt.Sprintf("%012x", i), 3)
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
				{stagedName(e), e.String()},                                           // commit
				{e.String(), bootEntry(e.Seq, e.ID, 2).String()},                      // a try
				{bootEntry(e.Seq, e.ID, 2).String(), bootEntry(e.Seq, e.ID).String()}, // bless
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
			name := bootEntry(e.Seq, e.ID).String()
			if got := tool(t, "mtype", "-i", img, "::EFI/Linux/"+name); got != strings.Repeat(e.ID, 100) {
				t.Errorf("FAT%d: %s has %d other bytes", bits, name, len(got))
			}
		}
	}
}

// A name is taken away in one write, and what it had is free then, but for what a torn chain shares with another file.
func TestRemoveOnFAT(t *testing.T) {
	// What follows begins at a multiple of four dirents, as on an ESP.
	img := fatImage(t, 16, map[string]string{"EFI/Linux/a readme.txt": "x"})
	uki := filepath.Join(t.TempDir(), "uki")
	if err := os.WriteFile(uki, bytes.Repeat([]byte("uki"), 10000), 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "mmd", "-i", img, "::kairos", "::kairos/"+idA, "::kairos/"+idB)
	gone, stays := "::EFI/Linux/"+bootEntry(2, idA, 3).String(), "::EFI/Linux/"+bootEntry(3, idB).String()
	for _, to := range []string{
		gone, stays, "::kairos/" + idA + "/vmlinuz", "::kairos/" + idA + "/initrd", "::kairos/" + idB + "/vmlinuz",
	} {
		tool(t, "mcopy", "-i", img, uki, to)
	}
	d, r := openImage(t, img)
	find := func(dir, name string) entry {
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
	torn, whole := find("EFI/Linux", bootEntry(2, idA, 3).String()), find("EFI/Linux", bootEntry(3, idB).String())
	if _, err := r.File.WriteAt(whole.raw[26:28], torn.dirents[len(torn.dirents)-1]+26); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{{"EFI/Linux", bootEntry(2, idA, 3).String()}, {"kairos", idA}} {
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
	if out := tool(t, "fsck.fat", "-n", img); strings.Contains(out, "Reclaim") || strings.Contains(out, "differ") ||
		strings.Contains(out, "fragment") {
		t.Error(out)
	}
	for _, name := range []string{stays, "::kairos/" + idB + "/vmlinuz"} {
		if got := tool(t, "mtype", "-i", img, name); got != strings.Repeat("uki", 10000) {
			t.Errorf("%s has %d other bytes", name, len(got))
		}
	}
	if out := tool(t, "mdir", "-b", "-/", "-i", img); strings.Contains(out, idA+"+") ||
		strings.Contains(out, "kairos/"+idA) {
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
			put(d.fat+i*d.fatSize+int64(bad)*int64(bits)/8, badCluster)
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
	img := fatImage(
		t,
		16,
		map[string]string{"EFI/BOOT/BOOTX64.EFI": "old loader", "EFI/BOOT/BOOTX64.TMP": strings.Repeat("new", 1000)},
	)
	d, r := openImage(t, img)
	if err := d.Exchange("EFI/BOOT", "BOOTX64.TMP", "BOOTX64.EFI"); err != nil {
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

// Names in two sectors take two writes, and between them the file that counts has the new content as a whole.
func TestExchangeAcrossSectorsOnFAT(t *testing.T) {
	files := map[string]string{}
	for i := range 40 {
		files[fmt.Sprintf("EFI/Linux/a file with a long name %d", i)] = strings.Repeat("x", 3000+i)
	}
	img := fatImage(t, 16, files)
	d, r := openImage(t, img)
	const dir = "EFI/Linux"
	cluster, err := d.dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := d.list(cluster)
	if err != nil {
		t.Fatal(err)
	}
	temp, final := all[2].name, all[len(all)-1].name
	read := func(name string) string { return tool(t, "mtype", "-i", img, "::"+dir+"/"+name) }
	oldTemp, oldFinal := read(temp), read(final)
	if err := d.Exchange(dir, temp, final); err != nil {
		t.Fatal(err)
	}
	if len(r.writes) != 2 || read(final) != oldTemp || read(temp) != oldFinal {
		t.Errorf("writes %v", r.writes)
	}
	// Interrupted after the first write, both have the new content; to remove the other one leaves it whole.
	if err := d.Exchange(dir, temp, final); err != nil { // back
		t.Fatal(err)
	}
	et, _ := d.lookup(cluster, temp)
	ef, _ := d.lookup(cluster, final)
	if _, err := r.File.WriteAt(et.raw[13:], ef.dirents[len(ef.dirents)-1]+13); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(dir, temp); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Reclaim(); err != nil {
		t.Fatal(err)
	}
	if read(final) != oldTemp {
		t.Error("the file has other bytes")
	}
	tool(t, "fsck.fat", "-n", img)
}

func TestRenameOnFATRefuses(t *testing.T) {
	a, b := bootEntry(1, idA, 3), bootEntry(2, idB, 3)
	img := fatImage(t, 16, map[string]string{"EFI/Linux/" + a.String(): "a", "EFI/Linux/" + b.String(): "b"})
	d, r := openImage(t, img)
	for name, c := range map[string][3]string{
		"no such folder": {"EFI/Nothing", a.String(), stagedName(a)},
		"no such file":   {"EFI/Linux", "kairos.efi", "kairos.tmp"},
		"name exists":    {"EFI/Linux", a.String(), b.String()},
		"other length":   {"EFI/Linux", a.String(), a.String() + ".and.much.longer"},
		"other place":    {"EFI/Linux", a.String(), bootEntry(3, idA, 2).String()},
	} {
		if err := d.Rename(c[0], c[1], c[2]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if len(r.writes) > 0 {
		t.Errorf("wrote %v", r.writes)
	}
	for name, b := range map[string][]byte{"zeros": make([]byte, 4096), "short": {1}} {
		if _, err := Open(memoryDisk{bytes.NewReader(b)}); err == nil {
			t.Errorf("%s: accepted as FAT", name)
		}
	}
}

type memoryDisk struct{ *bytes.Reader }

func (memoryDisk) WriteAt([]byte, int64) (int, error) { return 0, io.ErrShortWrite }
