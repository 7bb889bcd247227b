package fattest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/internal/durable"
)

// Cuts is a FAT volume in memory that is "mounted" at a directory, and of which a power cut may leave a part: whatever
// was written since the last fsync is on the disk or not, sector by sector. It is a [fat.Mount].
type Cuts struct {
	Dir string

	t         testing.TB
	now, sure []byte            // the volume as it is, and as it is after a power cut for sure; nil: nobody asks
	shown     map[string][]byte // the files that both have
	left      [][]byte
	last      durable.Step
}

// MakeCuts makes a volume of a size in bytes of the files in a directory, and shows it there.
func MakeCuts(t testing.TB, dir string, size int64, more ...filetree.File) *Cuts {
	t.Helper()
	files := more
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		rel, rerr := filepath.Rel(dir, name)
		if err := errors.Join(err, rerr); err != nil || name == dir {
			return err
		}
		if d.IsDir() {
			files = append(files, filetree.File{Path: rel, Mode: fs.ModeDir})
			return nil
		}
		b, err := os.ReadFile(name)
		files = append(files, filetree.Bytes(rel, b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := fat.FileSystem{Label: "ESP", Size: size, Files: files}.Image()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := m.WriteTo(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	c := LoadCuts(t, dir, b.Bytes())
	c.sure = bytes.Clone(c.now)
	return c
}

// LoadCuts shows a volume in a directory. What a power cut leaves of it is not noted.
func LoadCuts(t testing.TB, dir string, volume []byte) *Cuts {
	t.Helper()
	c := &Cuts{Dir: dir, t: t, now: bytes.Clone(volume)}
	if err := c.show(); err != nil {
		t.Fatal(err)
	}
	return c
}

// Names changes names on the volume.
func (c *Cuts) Names() fat.Mounted { return fat.Mounted{Mount: c} }

// Busy is false: nobody else has it mounted.
func (c *Cuts) Busy() bool { return false }

// OnDevice is [fat.Mount]: the volume is unmounted, changed, fsynced and mounted again.
func (c *Cuts) OnDevice(do func(fat.Disk) error) error {
	if err := c.write(); err != nil {
		return err
	}
	c.settle() // unmounting writes it all
	err := do(memory(c.now))
	c.settle()
	return errors.Join(err, c.show())
}

// Before is called before each durable step, like [durable.FS]'s, and says whether the step is on the volume.
func (c *Cuts) Before(s durable.Step) (here bool, err error) {
	if err := c.write(); err != nil {
		return false, err
	}
	if c.last.Kind == durable.Sync || c.last.Kind == durable.SyncDir {
		c.settle()
	}
	c.last = durable.Step{}
	if here = s.Path == c.Dir || strings.HasPrefix(s.Path, c.Dir+"/"); here {
		c.last = s
	}
	return here, nil
}

// Left returns the volumes that a power cut may have left since the last call, and at this moment.
func (c *Cuts) Left() [][]byte {
	left := append(c.left, c.sure)
	c.left = nil
	return left
}

// Volume is the volume, with what is new in the directory.
func (c *Cuts) Volume() []byte {
	c.t.Helper()
	if err := c.write(); err != nil {
		c.t.Fatal(err)
	}
	return bytes.Clone(c.now)
}

// Check has fsck.fat look at the volume, with what is new in the directory, as [Volume.Check] does.
func (c *Cuts) Check() {
	c.t.Helper()
	name := filepath.Join(c.t.TempDir(), "volume")
	if err := os.WriteFile(name, c.Volume(), 0o600); err != nil {
		c.t.Fatal(err)
	}
	check(c.t, name)
}

// settle makes durable what was written, and notes the volumes that a power cut may have left before: with few sectors
// each selection of them, else none, all, the first ones, the last ones, and all but one.
func (c *Cuts) settle() {
	if c.sure == nil {
		return
	}
	var changed []int
	for at := 0; at < len(c.now); at += sector {
		if !bytes.Equal(c.now[at:at+sector], c.sure[at:at+sector]) {
			changed = append(changed, at)
		}
	}
	const few = 4
	var picks [][]int
	if n := len(changed); n <= few {
		for pick := range 1 << n {
			var some []int
			for i, at := range changed {
				if pick>>i&1 != 0 {
					some = append(some, at)
				}
			}
			picks = append(picks, some)
		}
	} else {
		for i := range changed {
			picks = append(picks, changed[:i], changed[i:],
				append(append([]int{}, changed[:i]...), changed[i+1:]...))
		}
	}
	for _, pick := range picks {
		b := bytes.Clone(c.sure)
		for _, at := range pick {
			copy(b[at:at+sector], c.now[at:])
		}
		c.left = append(c.left, b)
	}
	c.sure = bytes.Clone(c.now)
}

// write writes to the volume what is new in the directory.
func (c *Cuts) write() error {
	d, err := drive(c.now)
	if err != nil {
		return err
	}
	return filepath.WalkDir(c.Dir, func(name string, e fs.DirEntry, err error) error {
		rel, rerr := filepath.Rel(c.Dir, name)
		if err := errors.Join(err, rerr); err != nil || name == c.Dir {
			return err
		}
		have, there := c.shown[rel]
		if e.IsDir() {
			if !there {
				c.shown[rel] = nil
				return d.mkdir(rel)
			}
			return nil
		}
		b, err := os.ReadFile(name)
		if err != nil || there && bytes.Equal(b, have) {
			return err
		}
		if there && len(have) == 0 && len(b) > 0 {
			there = false
		}
		c.shown[rel] = b
		return d.write(rel, b)
	})
}

// show makes the directory what the volume is. What a file has lost, it does not have here.
func (c *Cuts) show() error {
	volume, err := fat.Open(memory(c.now))
	if err != nil {
		return err
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		return err
	}
	c.shown = map[string][]byte{}
	files := volume.FS()
	return fs.WalkDir(files, ".", func(name string, e fs.DirEntry, err error) error {
		to := filepath.Join(c.Dir, filepath.FromSlash(name))
		switch {
		case err != nil && name != ".":
			return fs.SkipDir // a folder whose first cluster was not written
		case err != nil:
			return err
		case e.IsDir():
			c.shown[name] = nil
			return os.MkdirAll(to, 0o755)
		}
		b, _ := fs.ReadFile(files, name) // as far as it can be read
		c.shown[name] = b
		return os.WriteFile(to, b, 0o644)
	})
}

// memory is a disk.
type memory []byte

func (m memory) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(b, m[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (m memory) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[off:], b), nil
}
