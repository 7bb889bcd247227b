//go:build vm

// Package erofs holds images against what others make of the same archives: GNU tar, and the
// kernel that nodes run. It runs as root; `make test-vm` makes what it starts from.
package erofs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/erofs/erofstest"
	"github.com/kairos-buildkit/kairos/internal/imagevm"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
)

const baseTar = "../../build/base/debian-trixie.tar"

var options = []erofs.Options{
	{}, {Compression: erofs.LZ4}, {Compression: erofs.Zstd}, {Compression: erofs.Zstd, Level: 15},
}

func name(layer string, o erofs.Options) string {
	return fmt.Sprintf("%s-%s-%d", layer, cmp.Or(o.Compression, erofs.None), o.Level)
}

// image converts an archive into a file and reads it.
func image(t *testing.T, archive string, o erofs.Options) (path string, files []erofstest.File) {
	t.Helper()
	in, err := os.Open(archive)
	if err != nil {
		t.Fatalf("%v: run `make base`", err)
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "image.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := erofs.Convert(context.Background(), out, in, o); err != nil {
		t.Fatal(err)
	}
	f, err := erofs.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	if files, err = erofstest.Walk(f); err != nil {
		t.Fatal(err)
	}
	return out.Name(), files
}

// archives returns the test layers and the Debian base as files.
func archives(t *testing.T) map[string]string {
	t.Helper()
	paths := map[string]string{"debian": baseTar}
	for _, l := range erofstest.Layers() {
		path := filepath.Join(t.TempDir(), l.Name+".tar")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Write(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		paths[l.Name] = path
	}
	return paths
}

func TestReaderAgreesWithGNUTar(t *testing.T) {
	plain := map[string]bool{"debian": true}
	for _, l := range erofstest.Layers() {
		plain[l.Name] = l.Plain
	}
	for layer, archive := range archives(t) {
		if !plain[layer] {
			continue
		}
		dir := t.TempDir()
		// It keeps all attributes and times, which not every disk's file system does.
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			t.Fatalf("mount a tmpfs: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		out, err := exec.Command("tar", "--extract", "--file", archive, "--directory", dir, "--preserve-permissions",
			"--same-owner",
			"--numeric-owner", "--xattrs", "--xattrs-include=*").
			CombinedOutput()
		if err != nil {
			t.Fatalf("%s: tar: %v\n%s", layer, err, out)
		}
		extracted, err := erofstest.WalkDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, files := image(t, archive, erofs.Options{Compression: erofs.Zstd})
		if d := gocmp.Diff(comparable(extracted, files), comparable(erofstest.Unmarked(files), files)); d != "" {
			t.Errorf("%s: -tar +image\n%s", layer, d)
		}
		unix.Unmount(dir, unix.MNT_DETACH)
	}
}

// comparable leaves out what an archive does not say: the root, where the archive has no
// entry for it, and the time of folders that it implies.
func comparable(files, like []erofstest.File) string {
	implied := map[string]bool{}
	for _, f := range like {
		if f.ModTime.Unix() == 0 && f.ModTime.Nanosecond() == 0 {
			implied[f.Name] = true
		}
	}
	var keep []erofstest.File
	for _, f := range files {
		if f.Name == "." {
			continue
		}
		if implied[f.Name] && f.Mode&unix.S_IFMT == unix.S_IFDIR {
			f.ModTime = time.Unix(0, 0)
		}
		keep = append(keep, f)
	}
	return strings.Join(erofstest.Lines(keep), "\n")
}

// The kernel that runs the tests sees in every image what our reader sees.
func TestThisKernelAgreesWithReader(t *testing.T) {
	for layer, archive := range archives(t) {
		for _, o := range options {
			if o.Level != 0 && layer != "sizes" && layer != "debian" {
				continue
			}
			path, files := image(t, archive, o)
			dir := t.TempDir()
			out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", path, dir).CombinedOutput()
			if err != nil {
				t.Errorf("%s: mount: %v\n%s", name(layer, o), err, out)
				continue
			}
			seen, err := erofstest.WalkDir(dir)
			if err := errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)); err != nil {
				t.Errorf("%s: %v", name(layer, o), err)
			}
			if d := gocmp.Diff(erofstest.Lines(files), erofstest.Lines(seen)); d != "" {
				t.Errorf("%s: -reader +kernel\n%s", name(layer, o), d)
			}
		}
	}
}

// The kernel of the Debian base, 6.12, sees in every image what our reader sees: metadata,
// attributes, links and content.
func TestKernelAgreesWithReader(t *testing.T) {
	dir := t.TempDir()
	disk, err := imagevm.NewDisk(filepath.Join(dir, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	var job imagevm.Job
	for layer, archive := range archives(t) {
		for _, o := range options {
			if o.Level != 0 && layer != "sizes" ||
				(layer == "many" || layer == "debian") && o.Compression != erofs.Zstd {
				continue // large ones once: the kernel that runs the tests sees the others
			}
			path, files := image(t, archive, o)
			job.Checks = append(job.Checks, check(t, disk, name(layer, o), path, files))
		}
	}
	// And once it must not: else the check says nothing.
	path, files := image(t, baseTar, erofs.Options{})
	files[len(files)/2].Nlink++
	job.Checks = append(job.Checks, check(t, disk, "lie", path, files))
	if err := disk.Finish(job); err != nil {
		t.Fatal(err)
	}
	vm := start(t, dir)
	vm.Expect(imagevm.DoneMark, 20*time.Minute)
	out := vm.Output()
	for _, c := range job.Checks {
		ok := strings.Contains(out, imagevm.CheckMark+c.Name+": ok")
		if ok == (c.Name == "lie") {
			t.Errorf("%s: the machine says %q", c.Name, said(out, c.Name))
		}
	}
	if strings.Contains(out, "FAILED") {
		t.Error(vm.Tail(30))
	}
}

func said(out, name string) string {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, imagevm.CheckMark+name+":") {
			return line
		}
	}
	return "nothing"
}

func check(t *testing.T, disk *imagevm.Disk, name, path string, files []erofstest.File) imagevm.Check {
	t.Helper()
	c := imagevm.Check{Name: name, FSType: "erofs"}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if c.Image, err = disk.Add(f); err != nil {
		t.Fatal(err)
	}
	if c.Lines, err = disk.AddLines(erofstest.Lines(files)); err != nil {
		t.Fatal(err)
	}
	return c
}

func start(t *testing.T, dir string) *vmtest.VM {
	t.Helper()
	path, _ := image(t, baseTar, erofs.Options{})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	root, err := erofs.Open(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	m, err := imagevm.Machine(context.Background(), root, dir, filepath.Join(dir, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	return vmtest.Start(t, m)
}
