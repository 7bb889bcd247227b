package fat

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/internal/disktest"
)

func fatFiles() []filetree.File {
	return append(disktest.ManyFiles(60),
		filetree.Bytes("EFI/BOOT/BOOTX64.EFI", disktest.Content("uki", 5_000_000)),
		filetree.Bytes("EFI/Linux/kairos-00000001-0123456789ab+3-0.efi", disktest.Content("entry", 70_001)),
		filetree.Bytes("EFI/Linux/kairos-00000002-0123456789ab+3-0.efi", disktest.Content("other", 1)),
		filetree.Bytes("empty", nil),
		filetree.Bytes("loader/loader.conf", []byte("timeout 0\n")),
		filetree.File{Path: "no/files", Mode: os.ModeDir},
	)
}

func TestFAT(t *testing.T) {
	for name, c := range map[string]struct {
		size int64
		kind string
	}{
		"fits":    {0, "FAT16"},
		"64 MiB":  {64 << 20, "FAT16"},
		"256 MiB": {256 << 20, "FAT16"},
		"300 MiB": {300 << 20, "FAT32"},
	} {
		t.Run(name, func(t *testing.T) {
			f := FileSystem{
				Label: "COS_GRUB", Serial: 0x1234abcd, Size: c.size, Time: disktest.Time, Files: fatFiles(),
			}
			writeImage := disktest.Write
			if c.size > 0 {
				writeImage = disktest.WriteSparse // seconds, where there are hundreds of megabytes of zeros
			}
			img := writeImage(t, f.Image)
			if info, _ := os.Stat(img); c.size > 0 && info.Size() != c.size {
				t.Errorf("size %d, want %d", info.Size(), c.size)
			}
			out := disktest.Tool(t, "fsck.vfat", "-n", "-v", img)
			if strings.Contains(out, "differ") || strings.Contains(out, "wrong") ||
				strings.Contains(out, "Free cluster") {
				t.Error(out)
			}
			if out := disktest.Tool(t, "blkid", "-p", img); !strings.Contains(out, `LABEL="COS_GRUB"`) ||
				!strings.Contains(out, `UUID="1234-ABCD"`) ||
				!strings.Contains(out, `VERSION="`+c.kind+`"`) {
				t.Error(out)
			}
			for _, f := range f.Files {
				if f.Mode.IsDir() {
					disktest.Tool(t, "mdir", "-i", img, "::"+f.Path)
					continue
				}
				var want bytes.Buffer
				r, _ := f.Open()
				want.ReadFrom(r)
				if got := disktest.Tool(t, "mtype", "-i", img, "::"+f.Path); got != want.String() {
					t.Errorf("%s: got %d bytes, want %d", f.Path, len(got), want.Len())
				}
			}
			if out := disktest.Tool(t, "mdir", "-i", img, "::EFI/Linux"); !strings.Contains(out, "2024-02-29  12:34") {
				t.Error(out)
			}
		})
	}
}

// What the files have in common with a file beside them is there once, and both read whole.
func TestFATSharesClustersWithTheFileBeside(t *testing.T) {
	uki, blob := make([]byte, 9_000_001), make([]byte, 12_000_000/4096*4096)
	rand.NewChaCha8([32]byte{1}).Read(uki)
	rand.NewChaCha8([32]byte{2}).Read(blob)
	copy(blob[100*4096:], uki[3*4096:][:1000*4096])   // in one piece
	copy(blob[1500*4096:], uki[1200*4096:][:50*4096]) // and another one
	copy(blob[1600*4096:], uki[1220*4096:][:5*4096])  // of which a part is there twice
	beside := filetree.Bytes("layer", blob)
	f := FileSystem{Label: "COS_GRUB", Time: disktest.Time, Beside: &beside, Files: []filetree.File{
		filetree.Bytes(
			"EFI/BOOT/BOOTX64.EFI",
			uki,
		), filetree.Bytes("copy", uki[3*4096:][:2*4096]), filetree.Bytes("empty", nil),
		filetree.Bytes("other", disktest.Content("other", 10_000)),
	}}
	img := disktest.Write(t, f.Image)
	disktest.Tool(t, "fsck.vfat", "-n", img)
	for _, f := range f.Files {
		var want bytes.Buffer
		r, _ := f.Open()
		want.ReadFrom(r)
		if got := disktest.Tool(t, "mtype", "-i", img, "::"+f.Path); got != want.String() {
			t.Errorf("%s: got %d bytes, want %d", f.Path, len(got), want.Len())
		}
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.Image()
	if err != nil {
		t.Fatal(err)
	}
	if parts := m.Parts("layer", 0, int64(len(blob))); len(parts) != 1 ||
		!bytes.Equal(b[parts[0].At:][:len(blob)], blob) {
		t.Errorf("the file beside is not at %v", parts)
	}
	var joined []byte
	parts := m.Parts("EFI/BOOT/BOOTX64.EFI", 2*4096, 1300*4096)
	for _, p := range parts {
		joined = append(joined, b[p.At:][:p.Size]...)
	}
	if !bytes.Equal(joined, uki[2*4096:][:1300*4096]) || len(parts) != 5 {
		t.Errorf("parts %v", parts)
	}
	if m.Parts("EFI/BOOT/BOOTX64.EFI", 1, int64(len(uki))) != nil || m.Parts("no such file", 0, 1) != nil {
		t.Error("there are parts of what is not there")
	}
	if most := len(blob) + len(uki) - 1050*4096 + 200_000; len(b) > most {
		t.Errorf("%d bytes, want %d at most", len(b), most)
	}
}

// The checks have to see damage, or they prove nothing.
func TestFsckSeesABrokenFAT(t *testing.T) {
	img := disktest.Write(t, FileSystem{Label: "X", Time: disktest.Time, Files: fatFiles()}.Image)
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	boot := make([]byte, 512)
	if _, err := f.ReadAt(boot, 0); err != nil {
		t.Fatal(err)
	}
	firstFAT := int64(le.Uint16(boot[14:])) * 512
	if _, err := f.WriteAt([]byte{0, 0, 0, 0}, firstFAT+10); err != nil { // cuts a file's chain
		t.Fatal(err)
	}
	if err := exec.Command("fsck.vfat", "-n", img).Run(); err == nil {
		t.Error("fsck.vfat accepts a broken FAT")
	}
}

func TestFATRefuses(t *testing.T) {
	for name, f := range map[string]FileSystem{
		"too small":       {Size: 32 << 20, Files: []filetree.File{filetree.Bytes("a", make([]byte, 33<<20))}},
		"odd size":        {Size: 32<<20 + 1},
		"tiny":            {Size: 64 << 10},
		"case only":       {Files: []filetree.File{filetree.Bytes("a", nil), filetree.Bytes("A", nil)}},
		"bad character":   {Files: []filetree.File{filetree.Bytes("a:b", nil)}},
		"dot at the end":  {Files: []filetree.File{filetree.Bytes("a.", nil)}},
		"4 GiB":           {Files: []filetree.File{{Path: "a", Size: 1 << 32, Open: filetree.Bytes("", nil).Open}}},
		"long label":      {Label: "TWELVE CHARS"},
		"root overflows":  {Files: disktest.RootFiles(300)},
		"file and folder": {Files: []filetree.File{filetree.Bytes("a", nil), filetree.Bytes("a/b", nil)}},
	} {
		if _, err := f.Image(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
