package node

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
		f, err := os.OpenFile(img, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, e := range entries {
			for _, names := range [][2]string{
				{stagedName(e), e.String()},                                   // commit
				{e.String(), entry(e.Seq, e.ID, 2).String()},                  // a try
				{entry(e.Seq, e.ID, 2).String(), entry(e.Seq, e.ID).String()}, // bless
			} {
				r := &recorder{File: f}
				d, err := openFAT(r)
				if err != nil {
					t.Fatal(err)
				}
				if d.bits != bits {
					t.Fatalf("FAT%d taken for FAT%d", bits, d.bits)
				}
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

func TestExchangeOnFATIsOneSector(t *testing.T) {
	img := fatImage(t, 16, map[string]string{"EFI/BOOT/BOOTX64.EFI": "old loader", "EFI/BOOT/BOOTX64.TMP": strings.Repeat("new", 1000)})
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := &recorder{File: f}
	d, err := openFAT(r)
	if err != nil {
		t.Fatal(err)
	}
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
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := &recorder{File: f}
	d, err := openFAT(r)
	if err != nil {
		t.Fatal(err)
	}
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
