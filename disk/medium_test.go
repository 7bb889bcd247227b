package disk

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/internal/disktest"
	"github.com/kairos-buildkit/kairos/disk/sparse"
	"github.com/kairos-buildkit/kairos/layout"
)

// openMediumFile opens a medium in a file.
func openMediumFile(t *testing.T, name string) *Medium {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := OpenMedium(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// sameFiles checks that a volume holds these files, and no others but those in extra.
func sameFiles(t *testing.T, v Volume, want []filetree.File, extra ...string) {
	t.Helper()
	files, err := v.Open()
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for _, w := range want {
		if w.Mode&os.ModeDir == 0 {
			left[path.Clean(w.Path)] = true
		}
	}
	for _, w := range want {
		if w.Mode.IsDir() || w.Mode&os.ModeSymlink != 0 {
			continue
		}
		r, err := w.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := fs.ReadFile(files, w.Path)
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %d bytes, want %d (%v)", w.Path, len(got), len(b), err)
		}
	}
	err = fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type().IsRegular() && !left[name] && !slices.Contains(extra, name) {
			t.Errorf("%s should not be there", name)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestReadISO(t *testing.T) {
	iso := testISO(t)
	m := openMediumFile(t, disktest.WriteSparse(t, iso.Image))
	if m.Format != "iso" || len(m.Volumes) != 2 || m.Volumes[0].Label != "COS_LIVE" || m.Volumes[1].FS != "vfat" {
		t.Fatalf("%+v", m)
	}
	sameFiles(t, m.Volumes[0], iso.Files, "boot/grub/eltorito.img")
	sameFiles(t, m.Volumes[1],
		[]filetree.File{filetree.Bytes("EFI/BOOT/BOOTX64.EFI", disktest.Content("uki", 5_000_000))})
}

func TestReadDisk(t *testing.T) {
	s := testSystem()
	raw := disktest.WriteSparse(t, s.image)
	qcow := filepath.Join(t.TempDir(), "ours.qcow2")
	if err := os.Rename(disktest.WriteSparse(t, func() (*sparse.Image, error) {
		m, err := s.image()
		if err != nil {
			return nil, err
		}
		return QCOW2(m)
	}), qcow); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"raw": raw, "qcow2": qcow}
	for name, args := range map[string][]string{
		"compressed":   {"-c", "-O", "qcow2"},
		"version 2":    {"-O", "qcow2", "-o", "compat=0.10,cluster_size=512"},
		"big clusters": {"-c", "-O", "qcow2", "-o", "cluster_size=2M"},
	} {
		files[name] = filepath.Join(t.TempDir(), "qemu")
		disktest.Tool(t, "qemu-img", append(append([]string{"convert"}, args...), "-f", "raw", raw, files[name])...)
	}
	d, err := s.Disk()
	if err != nil {
		t.Fatal(err)
	}
	_, placed, err := d.Place()
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range files {
		t.Run(name, func(t *testing.T) {
			m := openMediumFile(t, file)
			if m.Format == "raw" != (name == "raw") || m.SectorSize != 512 || len(m.Volumes) != len(placed) {
				t.Fatalf("%+v", m)
			}
			for i, v := range m.Volumes {
				p := placed[i]
				if v.Number != i+1 || v.Name != p.Name || v.GUID != p.GUID || v.Start != p.Start || v.Size != p.Size ||
					v.FS != p.FS ||
					v.Label != p.Label {
					t.Errorf("%+v, want %+v", v, p)
				}
				if v.FS != "" {
					sameFiles(t, v, p.Files)
				}
			}
			if name != "raw" {
				return
			}
			files, err := m.Volumes[2].Open()
			if err != nil {
				t.Fatal(err)
			}
			if err := fstest.TestFS(files, s.OEM[0].Path); err != nil {
				t.Error(err)
			}
		})
	}
}

// fuzzMedium opens and reads what is a medium of some kind, damaged at one place or more: errors are fine.
func fuzzMedium(f *testing.F, lay func() (*sparse.Image, error)) {
	m, err := lay()
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := m.WriteTo(f.Context(), &b); err != nil {
		f.Fatal(err)
	}
	sound := b.Bytes()
	var places []int // where something is
	for at := 0; at < len(sound); at += 16 {
		if slices.Max(sound[at:min(at+16, len(sound))]) > 0 {
			places = append(places, at)
		}
	}
	f.Add([]byte{0, 0, 0, 1, 2})
	for i := range 64 {
		f.Add([]byte{0, byte(i), byte(i * 37), 3, 255, 1, byte(i), 9, 0, 0x80})
	}
	f.Fuzz(func(t *testing.T, changes []byte) {
		d := bytes.Clone(sound)
		// Three bytes say where, one how far from there, and one what.
		for ; len(changes) >= 5; changes = changes[5:] {
			at := places[(int(changes[0])<<16|int(changes[1])<<8|int(changes[2]))%len(places)] + int(changes[3]%16)
			if at < len(d) {
				d[at] = changes[4]
			}
		}
		readAll(d)
	})
}

// readAll reads all that a medium has.
func readAll(b []byte) {
	m, err := OpenMedium(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return
	}
	for _, v := range m.Volumes {
		files, err := v.Open()
		if err != nil {
			continue
		}
		names := 0
		fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
			if names++; names > 50 || err != nil {
				return fs.SkipAll
			}
			if f, err := files.Open(name); err == nil && d.Type().IsRegular() {
				io.CopyN(io.Discard, f, 1<<16)
			}
			return nil
		})
	}
}

// smallISO is an ISO with all that one has.
func smallISO() (*sparse.Image, error) {
	efi, err := fat.FileSystem{
		Label: "EFI",
		Time:  disktest.Time,
		Files: []filetree.File{filetree.Bytes("EFI/BOOT/BOOTX64.EFI", disktest.Content("uki", 5000))},
	}.Image()
	if err != nil {
		return nil, err
	}
	return ISO{Volume: "V", Time: disktest.Time, EFI: efi, Files: []filetree.File{
		filetree.Bytes("a/b/c", disktest.Content("x", 3000)), filetree.Bytes("a/a long name that Rock Ridge has", nil),
		filetree.Bytes("d", []byte("d")),
	}}.Image()
}

func FuzzReadISO(f *testing.F) { fuzzMedium(f, smallISO) }

func FuzzReadFAT(f *testing.F) {
	fuzzMedium(f, func() (*sparse.Image, error) {
		fat, err := fat.FileSystem{
			Label: "V",
			Time:  disktest.Time,
			Size:  5 << 20,
			Files: []filetree.File{filetree.Bytes("EFI/Linux/a long name.efi", disktest.Content("x", 9000)),
				filetree.Bytes("B", nil)},
		}.Image()
		if err != nil {
			return nil, err
		}
		return onePartition("vfat", fat)
	})
}

func FuzzReadExt4(f *testing.F) {
	fuzzMedium(f, func() (*sparse.Image, error) {
		e, err := Ext4{
			Label: "V",
			Time:  disktest.Time,
			Size:  16 << 20,
			Files: []filetree.File{filetree.Bytes("a/b/c", disktest.Content("x", 9000)), filetree.Bytes("B", nil)},
		}.Image()
		if err != nil {
			return nil, err
		}
		return onePartition("ext4", e)
	})
}

func FuzzReadQCOW2(f *testing.F) {
	fuzzMedium(f, func() (*sparse.Image, error) {
		m, err := smallISO()
		if err != nil {
			return nil, err
		}
		return QCOW2(m)
	})
}

// onePartition is a disk with a file system that was laid out already.
func onePartition(kind string, fs *sparse.Image) (*sparse.Image, error) {
	m, err := Disk{
		Seed:       []byte("fuzz"),
		Partitions: []Partition{{Partition: layout.Partition{Name: kind, Type: layout.TypeLinux, Size: fs.Size}}},
	}.Image()
	if err != nil {
		return nil, err
	}
	both := &sparse.Image{Size: m.Size}
	for at, part := range map[int64]*sparse.Image{0: m, alignment: fs} {
		extents, err := part.Extents()
		if err != nil {
			return nil, err
		}
		for _, e := range extents {
			if e.Open != nil { // the table's zeros are where the file system is
				both.Add(at+e.At, e)
			}
		}
	}
	return both, nil
}
