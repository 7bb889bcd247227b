// Package fattest is a FAT volume in a file for tests, with a directory that shows it as a mount would: new files and
// changes in place go through the directory, and names are changed on the volume by the code that nodes run.
package fattest

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
)

// Volume is a volume that is "mounted" at Dir. It is a [fat.Mount].
type Volume struct {
	Dir, Image string
	// Wrote is called after each write to the volume below the file system, with the volume as it is then. A power
	// cut may leave each of these.
	Wrote func(*fat.Volume)

	t     testing.TB
	shown map[string][]byte // the files that both have
}

// New makes a volume of a size in bytes that holds files.
func New(t testing.TB, size int64, files ...filetree.File) *Volume {
	t.Helper()
	m, err := fat.FileSystem{Label: "ESP", Size: size, Files: files}.Image()
	if err != nil {
		t.Fatal(err)
	}
	v := &Volume{Dir: t.TempDir(), Image: filepath.Join(t.TempDir(), "volume"), Wrote: func(*fat.Volume) {}, t: t}
	f, err := os.Create(v.Image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.WriteTo(t.Context(), f), f.Close(), v.show()); err != nil {
		t.Fatal(err)
	}
	return v
}

// Names changes names on the volume.
func (v *Volume) Names() fat.Mounted { return fat.Mounted{Mount: v} }

// Busy is false: nobody else has it mounted.
func (v *Volume) Busy() bool { return false }

// OnDevice writes to the volume what is new in the directory, lets do change the volume, and shows it again.
func (v *Volume) OnDevice(do func(fat.Disk) error) (err error) {
	if err := v.flush(); err != nil {
		return err
	}
	f, err := os.OpenFile(v.Image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(do(disk{f, v}), f.Close(), v.show())
}

// Check has fsck.fat look at the volume, with what is new in the directory. Nothing may be left behind, not even
// clusters without a name.
func (v *Volume) Check() {
	v.t.Helper()
	if err := v.flush(); err != nil {
		v.t.Error(err)
	}
	check(v.t, v.Image)
}

func check(t testing.TB, volume string) {
	t.Helper()
	if out, err := exec.Command("fsck.fat", "-n", volume).CombinedOutput(); err != nil {
		t.Errorf("fsck.fat (package dosfstools): %v\n%s", err, out)
	}
}

// disk is a file whose writes are told of.
type disk struct {
	*os.File
	v *Volume
}

func (d disk) WriteAt(b []byte, off int64) (int, error) {
	n, err := d.File.WriteAt(b, off)
	if v, err := fat.Open(d.File); err != nil {
		d.v.t.Errorf("the volume after %d bytes at %d: %v", n, off, err)
	} else {
		d.v.Wrote(v)
	}
	return n, err
}

// flush writes to the volume what is new in the directory, as unmounting does.
func (v *Volume) flush() error {
	return filepath.WalkDir(v.Dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == v.Dir {
			return err
		}
		rel, err := filepath.Rel(v.Dir, name)
		if err != nil {
			return err
		}
		have, there := v.shown[rel]
		if d.IsDir() {
			if !there {
				v.tool("mmd", "-i", v.Image, "::"+rel)
			}
			return nil
		}
		b, err := os.ReadFile(name)
		if err != nil || there && bytes.Equal(b, have) {
			return err
		}
		v.tool("mcopy", "-o", "-i", v.Image, name, "::"+rel)
		return nil
	})
}

// show makes the directory what the volume is.
func (v *Volume) show() error {
	f, err := os.Open(v.Image)
	if err != nil {
		return err
	}
	defer f.Close()
	volume, err := fat.Open(readOnly{f})
	if err != nil {
		return err
	}
	old, err := os.ReadDir(v.Dir)
	if err != nil {
		return err
	}
	for _, e := range old {
		if err := os.RemoveAll(filepath.Join(v.Dir, e.Name())); err != nil {
			return err
		}
	}
	v.shown = map[string][]byte{}
	files := volume.FS()
	return fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		to := filepath.Join(v.Dir, filepath.FromSlash(path.Clean(name)))
		if d.IsDir() {
			v.shown[name] = nil
			return os.Mkdir(to, 0o755)
		}
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		v.shown[name] = b
		return os.WriteFile(to, b, 0o644)
	})
}

type readOnly struct{ *os.File }

func (readOnly) WriteAt([]byte, int64) (int, error) { return 0, fs.ErrPermission }

func (v *Volume) tool(name string, args ...string) {
	v.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		v.t.Fatalf("%s (package mtools): %v\n%s", name, err, out)
	}
}
