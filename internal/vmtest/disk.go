package vmtest

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// NewDisk returns an empty disk of the given size in bytes.
func NewDisk(t testing.TB, size int64) qemu.Drive {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	qemuImg(t, "create", "-q", "-f", "qcow2", path, strconv.FormatInt(size, 10))
	return qemu.Drive{Path: path, Format: "qcow2"}
}

// Overlay returns a disk that starts as d and leaves d's file as it is: a snapshot to boot,
// to break, to throw away. It costs no copy. d must not change while overlays of it are used.
func Overlay(t testing.TB, d qemu.Drive) qemu.Drive {
	t.Helper()
	path := filepath.Join(t.TempDir(), "overlay.qcow2")
	base, err := filepath.Abs(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	format := d.Format
	if format == "" {
		format = "raw"
	}
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", base, "-F", format, path)
	d.Path, d.Format = path, "qcow2"
	return d
}

// Raw returns a raw copy of a disk, sparse, for tools that read disk images.
func Raw(t testing.TB, d qemu.Drive) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	format := d.Format
	if format == "" {
		format = "raw"
	}
	qemuImg(t, "convert", "-f", format, "-O", "raw", d.Path, path)
	return path
}

// Copy returns a copy of a file that the test may change: with holes where the file is zero, so that a disk
// of many gigabytes takes the room of what is on it.
func Copy(t testing.TB, file string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(file))
	if out, err := exec.Command("cp", "--sparse=always", "--reflink=auto", file, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	return to
}

func qemuImg(t testing.TB, args ...string) {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %v: %v (Debian: apt-get install qemu-utils)\n%s", args, err, out)
	}
}
