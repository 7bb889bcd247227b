package disk

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/internal/disktest"
	"github.com/kairos-buildkit/kairos/disk/sparse"
	"github.com/kairos-buildkit/kairos/layout"
)

// marked is a file of a size that is zero, but for its own name and the place at some places: its beginning and
// end, and around multiples of 4 GiB.
func marked(name string, size int64) filetree.File {
	return filetree.File{Path: name, Size: size, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(&markedReader{name: name, size: size}), nil
	}}
}

const markSize = 32

func mark(name string, at int64) []byte {
	return fmt.Appendf(nil, "%-*s", markSize, fmt.Sprintf("%s %d", name, at))
}

func marks(size int64) []int64 {
	all := []int64{0}
	for at := int64(1) << 32; at < size-markSize; at += 1 << 32 {
		all = append(all, at-4096, at)
	}
	return append(all, size-markSize)
}

type markedReader struct {
	name     string
	size, at int64
}

func (m *markedReader) Read(b []byte) (int, error) {
	if m.at == m.size {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), m.size-m.at)]
	clear(b)
	for _, at := range marks(m.size) {
		text := mark(m.name, at)
		if from := at - m.at; from < int64(len(b)) && from > -markSize {
			copy(b[max(from, 0):], text[max(-from, 0):])
		}
	}
	m.at += int64(len(b))
	return len(b), nil
}

// checkMarks looks for a file's marks, where a reader finds them.
func checkMarks(t *testing.T, v Volume, name string, size int64) {
	t.Helper()
	files, err := v.Open()
	if err != nil {
		t.Fatal(err)
	}
	f, err := files.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := fs.Stat(files, name); err != nil || info.Size() != size {
		t.Errorf("%s: %v, want %d bytes (%v)", name, info, size, err)
	}
	for _, at := range marks(size) {
		b := make([]byte, markSize)
		if _, err := f.(io.ReaderAt).ReadAt(b, at); err != nil || !bytes.Equal(b, mark(name, at)) {
			t.Errorf("%s at %d: %q, %v", name, at, b, err)
		}
	}
}

// Files and partitions that are, or lie, beyond 4 GiB are right on a raw disk and a qcow2 one: nothing of a size or an
// offset has 32 bits. What is zero is not written.
func TestDiskAbove4GiB(t *testing.T) {
	const size = 5<<30 + 4097
	d := Disk{Seed: []byte("large"), Time: disktest.Time, Partitions: []Partition{
		{Partition: layout.Partition{Name: "state", Label: "COS_STATE", FS: "ext4", Type: layout.TypeLinux},
			Files: []filetree.File{marked("blob", size), marked("small", 5000)}},
		{Partition: layout.Partition{Name: "efi", Label: "COS_GRUB", FS: "vfat", Type: layout.TypeESP, Size: 5 << 30},
			Files: []filetree.File{marked("first", 3<<30), marked("second", 1<<30+7)}},
	}}
	raw := disktest.WriteSparse(t, d.Image)
	qcow := disktest.WriteSparse(t, func() (*sparse.Image, error) {
		m, err := d.Image()
		if err != nil {
			return nil, err
		}
		return QCOW2(m)
	})
	disktest.Tool(t, "qemu-img", "check", "-f", "qcow2", qcow)
	disktest.Tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, qcow)
	for _, name := range []string{raw, qcow} {
		m := openMediumFile(t, name)
		checkMarks(t, m.Volumes[0], "blob", size)
		checkMarks(t, m.Volumes[0], "small", 5000)
		checkMarks(t, m.Volumes[1], "first", 3<<30)
		checkMarks(t, m.Volumes[1], "second", 1<<30+7)
	}
	m := openMediumFile(t, raw)
	disktest.Tool(t, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", raw, m.Volumes[0].Start))
	// fsck.vfat has no offset: the volume as a file of its own, with holes.
	part := filepath.Join(t.TempDir(), "efi")
	disktest.Tool(t, "qemu-img", "convert", "-f", "raw", "-O", "raw",
		fmt.Sprintf(`json:{"driver":"raw","offset":%d,"size":%d,"file":{"driver":"file","filename":%q}}`,
			m.Volumes[1].Start, m.Volumes[1].Size, raw), part)
	disktest.Tool(t, "fsck.vfat", "-n", part)
}

// What a format cannot say is refused, and not cut to the bits that it has.
func TestTooLargeIsRefused(t *testing.T) {
	efi := testISO(t).EFI
	empty := filetree.Bytes("", nil).Open
	for name, c := range map[string]struct {
		want string
		lay  func() (*sparse.Image, error)
	}{
		"FAT file of 4 GiB": {"FAT cannot hold a file of 4 GiB or more",
			fat.FileSystem{Files: []filetree.File{{Path: "a", Size: 1 << 32, Open: empty}}}.Image},
		"FAT of 2 TiB": {"too many, for FAT", fat.FileSystem{Size: 2 << 40}.Image},
		"FAT of 20 TiB in large sectors": {"too many, for FAT",
			fat.FileSystem{Size: 20 << 40, SectorSize: 4096}.Image},
		"ISO above 2 TiB": {"exceeds", ISO{EFI: efi, Files: files("f", 30, 300<<30)}.Image},
		"ISO file of 101 extents": {"Linux reads no file of more than 100",
			ISO{EFI: efi, Files: files("f", 1, 400<<30)}.Image},
		"ext4 file of 200 GiB": {"too many for one file",
			Ext4{Size: 1 << 40, Files: files("f", 1, 200<<30)}.Image},
		"ext4 of 1 PiB": {"too large", Ext4{Size: 1 << 50}.Image},
	} {
		if _, err := c.lay(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Inodes are numbered by 32 bits.
func TestExt4OfManyInodes(t *testing.T) {
	v, err := Ext4{Size: 100 << 40}.layOut()
	if err != nil {
		t.Fatal(err)
	}
	if n := v.groups * v.inodes; n >= 1<<32 || n < 1<<31 {
		t.Errorf("%d inodes", n)
	}
}

// files are so many of a size.
func files(name string, n int, size int64) (all []filetree.File) {
	for i := range n {
		all = append(all, marked(fmt.Sprint(name, i), size))
	}
	return all
}
