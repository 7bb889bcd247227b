package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/internal/disktest"
)

func ext4Files() []filetree.File {
	files := append(disktest.ManyFiles(300),
		filetree.Bytes("blobs/sha256/01/blob.erofs", disktest.Content("blob", 3_000_001)),
		filetree.Bytes("releases/0123456789ab/release.json", []byte("{}\n")),
		filetree.Bytes("empty", nil),
		filetree.File{Path: "dir", Mode: fs.ModeDir | 0o700},
	)
	secret := filetree.Bytes("secret", []byte("x"))
	secret.Mode = 0o600
	return append(files, secret)
}

func testExt4(size int64, files []filetree.File) Ext4 {
	return Ext4{
		Label: "COS_STATE", UUID: derive([]byte("test"), "state"), Size: size, Time: disktest.Time, Files: files,
	}
}

// e2fsck is strict: -n changes nothing and fails for anything that it would change.
func e2fsck(t *testing.T, img string) {
	t.Helper()
	disktest.Tool(t, "e2fsck", "-fn", img)
}

func TestExt4(t *testing.T) {
	for _, size := range []int64{
		16 << 20, 64 << 20, 64<<20 + 5000, 200 << 20, 129 << 20, 2049 << 20, 5 << 30, 300 << 30,
	} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			e := testExt4(size, ext4Files())
			writeImage := disktest.Write
			if size > 64<<20 {
				writeImage = disktest.WriteSparse
			}
			img := writeImage(t, e.Image)
			e2fsck(t, img)
			if out := disktest.Tool(t, "blkid", "-p", img); !strings.Contains(out, `LABEL="COS_STATE"`) ||
				!strings.Contains(out, `TYPE="ext4"`) {
				t.Error(out)
			}
			checkExt4Content(t, img, e.Files)
		})
	}
}

// checkExt4Content reads the file system back with debugfs.
func checkExt4Content(t *testing.T, img string, files []filetree.File) {
	t.Helper()
	dir := t.TempDir()
	disktest.Tool(t, "debugfs", "-R", "rdump / "+dir, img)
	for _, f := range files {
		name := filepath.Join(dir, f.Path)
		info, err := os.Stat(name)
		if err != nil {
			t.Error(err)
			continue
		}
		want := f.Mode
		if want == 0 {
			want = 0o644
		}
		if info.Mode() != want || !info.ModTime().Equal(disktest.Time) {
			t.Errorf("%s: %v %v, want %v %v", f.Path, info.Mode(), info.ModTime().UTC(), want, disktest.Time)
		}
		if f.Mode.IsDir() {
			continue
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(r)
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v; want %d", f.Path, len(got), err, len(data))
		}
	}
}

// A file of some gigabytes is in more pieces than an inode has room for.
func TestExt4KeepsLargeFiles(t *testing.T) {
	const size = 3<<30 + 4097
	e := testExt4(5<<30, append(ext4Files(), marked("large", size)))
	img := disktest.WriteSparse(t, e.Image)
	e2fsck(t, img)
	want := fmt.Sprintf("Size: %d\n", int64(size))
	if out := disktest.Tool(t, "debugfs", "-R", "stat /large", img); !strings.Contains(out, want) {
		t.Error(out)
	}
	if out := disktest.Tool(t, "debugfs", "-R", "ex /large", img); !strings.Contains(out, " 1/ 1") {
		t.Errorf("no tree of extents:\n%s", out)
	}
}

// On a device with old content, the result is as sound as on an empty one.
func TestExt4OverOldContent(t *testing.T) {
	e := testExt4(200<<20, ext4Files())
	m, err := e.Image()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(name, bytes.Repeat([]byte{0xa5}, 200<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.WriteOver(t.Context(), f, 0); err != nil {
		t.Fatal(err)
	}
	e2fsck(t, name)
	checkExt4Content(t, name, e.Files)
}

func TestE2fsckSeesABrokenExt4(t *testing.T) {
	img := disktest.WriteSparse(t, testExt4(64<<20, ext4Files()).Image)
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := testExt4(64<<20, ext4Files()).layOut()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1}, v.inodeTableAt(0)*ext4Block+20*ext4InodeSize+4); err != nil {
		t.Fatal(err)
	}
	if err := command("e2fsck", "-fn", img); err == nil {
		t.Error("e2fsck accepts a changed inode")
	}
}

func TestExt4MinSizeIsEnough(t *testing.T) {
	for _, free := range []int64{0, 100 << 20} {
		e := testExt4(0, append(ext4Files(), filetree.Bytes("large", disktest.Content("large", 100<<20))))
		size, err := e.MinSize(free)
		if err != nil {
			t.Fatal(err)
		}
		if limit := int64(100<<20+20<<20) + free; size > limit+limit/16 {
			t.Errorf("%d bytes for 100 MiB and %d free", size, free)
		}
		e.Size = size
		e2fsck(t, disktest.WriteSparse(t, e.Image))
	}
}

func TestExt4Refuses(t *testing.T) {
	_, err := testExt4(8<<20, []filetree.File{filetree.Bytes("a", make([]byte, 9<<20))}).Image()
	if !errors.As(err, new(*noSpaceError)) {
		t.Errorf("too small: %v", err)
	}
	for name, e := range map[string]Ext4{
		"no size":    {},
		"long label": {Label: strings.Repeat("x", 17), Size: 64 << 20},
		"name twice": {Size: 64 << 20, Files: []filetree.File{filetree.Bytes("a", nil), filetree.Bytes("a", nil)}},
		"lost+found": {Size: 64 << 20, Files: []filetree.File{filetree.Bytes("lost+found", nil)}},
		"inodes":     {Size: 8 << 20, Files: disktest.RootFiles(1000)},
		"long name":  {Size: 8 << 20, Files: []filetree.File{filetree.Bytes(strings.Repeat("x", 256), nil)}},
	} {
		if _, err := e.Image(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
