// Package powercut rebuilds, for tests, what a disk may hold after a power cut.
//
// It listens to the steps of a [durable.FS] and keeps two things apart: what is on the disk
// for sure, because an fsync has said so, and the changes since then, of which a disk may have
// any selection. Before each step it gives every such disk to the test.
package powercut

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/durable"
)

// State is the content of a disk: files and folders by their paths.
type State map[string]File

// File is a file's bytes, or a folder.
type File struct {
	Dir  bool
	Data []byte
}

// Recorder follows the steps that are done below a folder.
type Recorder struct {
	root    string
	disk    State    // what is there for sure
	pending []change // in the order in which they were made
	last    durable.Step
	// Cut is called before each step with the disks that a power cut at this moment may leave.
	Cut func(n int, before durable.Step, disks []State) error
	n   int
}

// change is a step of which the disk may not know yet.
type change struct {
	durable.Step
	data   []byte // content of a file that Create made
	synced bool   // data is on the disk
}

// New returns a recorder for the files below root, all of which are on the disk.
func New(root string) (*Recorder, error) {
	disk, err := Read(root)
	return &Recorder{root: root, disk: disk}, err
}

// Read reads all files below a folder.
func Read(root string) (State, error) {
	s := State{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			s[rel] = File{Dir: true}
			return nil
		}
		b, err := os.ReadFile(path)
		s[rel] = File{Data: b}
		return err
	})
	return s, err
}

// Write makes the files below an empty folder.
func (s State) Write(root string) error {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		path := filepath.Join(root, name)
		if s[name].Dir {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, s[name].Data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Sum tells states apart.
func (s State) Sum() (sum [32]byte) {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(s)) {
		var n [9]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(s[name].Data)))
		if s[name].Dir {
			n[8] = 1
		}
		fmt.Fprintf(h, "%q", name)
		h.Write(n[:])
		h.Write(s[name].Data)
	}
	h.Sum(sum[:0])
	return sum
}

// Before is for [durable.FS].
func (r *Recorder) Before(s durable.Step) error {
	if err := r.done(r.last); err != nil {
		return err
	}
	r.last = r.relative(s)
	r.n++
	if r.Cut == nil {
		return nil
	}
	return r.Cut(r.n, r.last, r.disks())
}

// Finish is called when all steps are done: the states after the last one.
func (r *Recorder) Finish() error { return r.Before(durable.Step{}) }

// Steps is how many there were.
func (r *Recorder) Steps() int { return r.n }

func (r *Recorder) relative(s durable.Step) durable.Step {
	s.Path = r.rel(s.Path)
	s.To = r.rel(s.To)
	return s
}

func (r *Recorder) rel(path string) string {
	rel, err := filepath.Rel(r.root, path)
	if path == "" || err != nil {
		return ""
	}
	return rel
}

// done takes note of a step that was done.
func (r *Recorder) done(s durable.Step) error {
	if strings.HasPrefix(s.Path, "..") {
		return nil // not on this disk
	}
	switch s.Kind {
	case durable.Mkdir, durable.Rename, durable.Remove, durable.Create, durable.Overwrite:
		r.pending = append(r.pending, change{Step: s})
	case durable.Exchange:
		a, b := r.disk[s.Path], r.disk[s.To]
		if a.Data == nil || b.Data == nil {
			return fmt.Errorf("%s before both files were on the disk", s)
		}
		r.disk[s.Path], r.disk[s.To] = b, a
	case durable.Sync:
		return r.sync(s.Path)
	case durable.SyncDir:
		r.settle(func(c change) bool {
			return filepath.Dir(c.Path) == s.Path || c.To != "" && filepath.Dir(c.To) == s.Path
		})
	}
	return nil
}

func (r *Recorder) sync(path string) error {
	b, err := os.ReadFile(filepath.Join(r.root, path))
	if err != nil {
		return err
	}
	for i := range r.pending {
		c := &r.pending[i]
		if c.Kind == durable.Create && c.Path == path {
			c.data, c.synced = b, true
			return nil
		}
	}
	r.settle(func(c change) bool { return c.Kind == durable.Overwrite && c.Path == path })
	if _, ok := r.disk[path]; !ok {
		return fmt.Errorf("sync of %s, which no step has made", path)
	}
	r.disk[path] = File{Data: b}
	return nil
}

// settle makes changes sure.
func (r *Recorder) settle(which func(change) bool) {
	var rest []change
	for _, c := range r.pending {
		if !which(c) {
			rest = append(rest, c)
			continue
		}
		if c.Kind == durable.Create && !c.synced {
			// The name is on the disk, the bytes may not be.
			if _, ok := r.disk[c.Path]; !ok {
				r.disk[c.Path] = File{}
			}
			continue
		}
		c.apply(r.disk, len(c.data))
	}
	r.pending = rest
}

// apply makes a change, with the first n bytes of a file.
func (c change) apply(s State, n int) {
	switch c.Kind {
	case durable.Mkdir:
		s[c.Path] = File{Dir: true}
	case durable.Create:
		s[c.Path] = File{Data: c.data[:n]}
	case durable.Rename:
		if f, ok := s[c.Path]; ok {
			delete(s, c.Path)
			s[c.To] = f
		}
	case durable.Remove: // with all that is in it
		maps.DeleteFunc(
			s,
			func(path string, _ File) bool { return path == c.Path || strings.HasPrefix(path, c.Path+"/") },
		)
	case durable.Overwrite:
		f := s[c.Path]
		b := append([]byte{}, f.Data...)
		copy(b[c.Off:], c.Data)
		s[c.Path] = File{Data: b}
	}
}

// disks returns what may be on the disk now: what is sure, and each selection of the
// changes since. A file that was not synced is empty, half there, or whole.
func (r *Recorder) disks() []State {
	seen := map[[32]byte]bool{}
	var all []State
	add := func(s State) {
		if sum := s.Sum(); !seen[sum] {
			seen[sum] = true
			all = append(all, s)
		}
	}
	pending := slices.Clone(r.pending)
	for i := range pending {
		if c := &pending[i]; c.Kind == durable.Create && !c.synced {
			c.data, _ = os.ReadFile(filepath.Join(r.root, c.Path))
		}
	}
	n := min(len(pending), 6)
	for pick := range 1 << n {
		for _, part := range []int{0, 1, 2} {
			s := maps.Clone(r.disk)
			for i, c := range pending {
				if i < n && pick>>i&1 == 0 {
					continue
				}
				size := len(c.data)
				if !c.synced {
					size = size * part / 2
				}
				c.apply(s, size)
			}
			add(s)
		}
	}
	return all
}

// ErrCut ends a run at a step.
var ErrCut = errors.New("power cut")
