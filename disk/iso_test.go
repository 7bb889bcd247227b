package disk

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/internal/disktest"
	"github.com/kairos-buildkit/kairos/disk/sparse"
)

func command(name string, args ...string) error { return exec.Command(name, args...).Run() }

const blobName = "kairos/blobs/sha256/01/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.erofs"

func testISO(t *testing.T) ISO {
	t.Helper()
	efi, err := fat.FileSystem{
		Label: "COS_GRUB",
		Time:  disktest.Time,
		Files: []filetree.File{filetree.Bytes("EFI/BOOT/BOOTX64.EFI", disktest.Content("uki", 5_000_000))},
	}.Image()
	if err != nil {
		t.Fatal(err)
	}
	return ISO{
		Volume: "COS_LIVE", Time: disktest.Time, EFI: efi,
		BootHybrid: bytes.Repeat([]byte{0x90}, 512), ElTorito: disktest.Content("eltorito", 150_001),
		Files: append(
			disktest.ManyFiles(100),
			filetree.Bytes(blobName, disktest.Content("blob", 1_000_000)),
			filetree.Bytes(blobName+".dmverity", []byte(`{"roothash":"","hashoffset":4096}`)),
			filetree.Bytes("kairos/releases/0123456789ab/release.json", []byte("{}\n")),
			filetree.Bytes("boot/grub/grub.cfg", []byte("boot\n")),
			filetree.Bytes("empty", nil),
			filetree.File{Path: "no/files", Mode: os.ModeDir},
			filetree.Bytes("long/0123456789.a", nil),
			filetree.Bytes("long/0123456789.b", nil),
			filetree.Bytes(
				"long/012345678901234567890123456789.a",
				[]byte("1"),
			),
			filetree.Bytes("long/012345678901234567890123456789.A", []byte("2")),
			filetree.Bytes("long/0123456789012345678901234567890.a", []byte("3")),
		),
	}
}

func TestISO(t *testing.T) {
	iso := testISO(t)
	img := disktest.Write(t, iso.Image)
	if out := disktest.Tool(t, "isoinfo", "-d", "-i", img); !strings.Contains(out, "Volume id: COS_LIVE\n") ||
		!strings.Contains(out, "Rock Ridge signatures version 1 found") ||
		!strings.Contains(out, "El Torito VD version 1 found") {
		t.Error(out)
	}
	out := disktest.Tool(t, "xorriso", "-indev", img, "-report_el_torito", "plain", "-report_system_area", "plain")
	for _, want := range []string{
		"Volume id    : 'COS_LIVE'", "BIOS  y   none", "UEFI  y   none", "boot-info-table", "grub2-boot-info",
		"MBR partition      :   1   0x80  0xcd", "MBR partition      :   2   0x00  0xef", "grub2-mbr",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("xorriso does not see %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "WARNING") || strings.Contains(out, "SORRY") || strings.Contains(out, "FAILURE") {
		t.Error(out)
	}

	dir := t.TempDir()
	disktest.Tool(t, "xorriso", "-osirrox", "on", "-indev", img, "-extract", "/", dir)
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+w", dir).Run() })
	for _, f := range iso.Files {
		info, err := os.Stat(filepath.Join(dir, f.Path))
		if err != nil {
			t.Error(err)
			continue
		}
		want := fs.FileMode(0o444)
		if f.Mode.IsDir() {
			want = fs.ModeDir | 0o555
		}
		if info.Mode() != want || !info.ModTime().Equal(disktest.Time) {
			t.Errorf("%s: %v %v, want %v %v", f.Path, info.Mode(), info.ModTime().UTC(), want, disktest.Time)
		}
		if f.Mode.IsDir() {
			continue
		}
		r, _ := f.Open()
		data, _ := io.ReadAll(r)
		if got, err := os.ReadFile(filepath.Join(dir, f.Path)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v; want %d", f.Path, len(got), err, len(data))
		}
	}

	// Without Rock Ridge, a reader sees unique plain names.
	if out := disktest.Tool(t, "isoinfo", "-f", "-i", img); !strings.Contains(out, "/EMPTY.;1") ||
		!strings.Contains(out, "/KAIROS/BLOBS/SHA256/01/0123456789ABCDEF0123.DMVERITY;1") {
		t.Error(out)
	}
}

// UEFI on a stick sees the FAT image as a partition, UEFI on a CD as El Torito's image.
func TestEFIImageIsWhereBothSay(t *testing.T) {
	iso := testISO(t)
	img := disktest.Write(t, iso.Image)
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	partition := int64(le.Uint32(b[446+16+8:])) * 512
	torito := int64(le.Uint32(b[le.Uint32(b[17*sector+0x47:])*sector+96+8:])) * sector
	if partition != torito {
		t.Errorf("partition at %d, El Torito image at %d", partition, torito)
	}
	var want bytes.Buffer
	if err := iso.EFI.WriteTo(context.Background(), &want); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b[partition:][:want.Len()], want.Bytes()) {
		t.Error("the EFI image is not there")
	}
}

// The kernel in the EFI image is a file of the volume too, without a second copy.
func TestISOSharesPartsOfTheEFIImage(t *testing.T) {
	iso := testISO(t)
	parts := iso.EFI.Parts("EFI/BOOT/BOOTX64.EFI", 10*sector, 1_000_000)
	if len(parts) != 1 || parts[0].At%sector != 0 {
		t.Fatalf("the UKI is at %v", parts)
	}
	before, err := iso.Image()
	if err != nil {
		t.Fatal(err)
	}
	iso.Shared = []Shared{{"boot/vmlinuz", parts}}
	img := disktest.Write(t, iso.Image)
	if info, err := os.Stat(img); err != nil || info.Size() != before.Size {
		t.Errorf("%d bytes with the shared file, %d without (%v)", info.Size(), before.Size, err)
	}
	dir := t.TempDir()
	disktest.Tool(t, "xorriso", "-osirrox", "on", "-indev", img, "-extract",
		"/boot/vmlinuz", filepath.Join(dir, "vmlinuz"))
	want := disktest.Content("uki", 5_000_000)[10*sector:][:1_000_000]
	if got, err := os.ReadFile(filepath.Join(dir, "vmlinuz")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	at := parts[0].At
	for name, shared := range map[string]Shared{
		"odd place":      {"x", []sparse.Part{{At: at + 1, Size: 10}}},
		"past the end":   {"x", []sparse.Part{{At: at, Size: 1 << 30}}},
		"name of a file": {"empty", []sparse.Part{{At: at, Size: 10}}},
		"odd size":       {"x", []sparse.Part{{At: at, Size: 10}, {At: at + sector, Size: 10}}},
	} {
		iso.Shared = []Shared{shared}
		if _, err := iso.Image(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A file of 4 GiB and more has several extents, and all of it is on the volume.
func TestISOKeepsLargeFiles(t *testing.T) {
	const size = 9<<30 + 12345
	iso := testISO(t)
	iso.Files = append(iso.Files, marked("large", size), marked("next", 5000))
	img := disktest.WriteSparse(t, iso.Image)
	out := disktest.Tool(t, "xorriso", "-indev", img, "-find", "/large", "-exec", "lsdl")
	if !strings.Contains(out, " 9663688761 ") {
		t.Error(out)
	}
	out = disktest.Tool(t, "xorriso", "-indev", img, "-find", "/large", "-exec", "report_lba")
	if strings.Count(out, "File data lba:  ") != 3 {
		t.Error(out)
	}
	m := openMediumFile(t, img)
	checkMarks(t, m.Volumes[0], "large", size)
	checkMarks(t, m.Volumes[0], "next", 5000)
	if m.Volumes[1].Start < 9<<30 {
		t.Errorf("the EFI image is at %d, before the file", m.Volumes[1].Start)
	}
}

func TestISORefuses(t *testing.T) {
	efi := testISO(t).EFI
	for name, iso := range map[string]ISO{
		"nothing boots":   {},
		"half of GRUB":    {ElTorito: make([]byte, 4096), EFI: efi},
		"wrong MBR":       {ElTorito: make([]byte, 4096), BootHybrid: make([]byte, 100)},
		"too deep":        {EFI: efi, Files: []filetree.File{filetree.Bytes("1/2/3/4/5/6/7/8/9/a", nil)}},
		"long name":       {EFI: efi, Files: []filetree.File{filetree.Bytes(strings.Repeat("x", 200), nil)}},
		"long volume":     {EFI: efi, Volume: strings.Repeat("X", 33)},
		"file and folder": {EFI: efi, Files: []filetree.File{filetree.Bytes("a", nil), filetree.Bytes("a/b", nil)}},
	} {
		if _, err := iso.Image(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Machines without BIOS (arm64) have UEFI as the only and default entry.
func TestISOForUEFIOnly(t *testing.T) {
	iso := testISO(t)
	iso.BootHybrid, iso.ElTorito = nil, nil
	out := disktest.Tool(t, "xorriso", "-indev", disktest.Write(t, iso.Image), "-report_el_torito", "plain")
	if strings.Contains(out, "BIOS") || !strings.Contains(out, "UEFI  y   none") {
		t.Error(out)
	}
}
