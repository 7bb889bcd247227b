package loader

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/uki"
)

// Names changes the names of a FAT volume, each as one write of a sector. Paths are relative to its root, with
// slashes.
//
// FAT has no journal: a power cut in rename(2) leaves two names with the same clusters, or none, and one in unlink(2)
// a name that has lost its bytes, or clusters that are another file's by now.
type Names interface {
	// Rename gives a file another name in its directory.
	Rename(dir, from, to string) error
	// Exchange swaps the content of two files in a directory; final is never without content.
	Exchange(dir, temp, final string) error
	// Remove takes away the name of a file, or of a directory with all that is in it.
	Remove(dir, name string) error
	// Reclaim frees what has no name.
	Reclaim() error
}

// Volume is an EFI system partition that is mounted for reading and for new files; what there is, is changed by Names.
type Volume struct {
	Dir   string // where it is mounted
	FS    *durable.FS
	Names Names
}

// staged ends the name of a file that no loader shall look at. It differs from ".efi" within
// the last 13 characters of the name, which FAT keeps in one place: so that taking it on and off
// is one write of one sector.
const staged = ".tmp"

func stagedName(name string) string { return strings.TrimSuffix(name, path.Ext(name)) + staged }

func (v *Volume) path(name string) string { return filepath.Join(v.Dir, filepath.FromSlash(name)) }

// ReadDir returns the names in a directory; one that does not exist has none.
func (v *Volume) ReadDir(dir string) ([]string, error) {
	files, err := os.ReadDir(v.path(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names, nil
}

// ReadFile reads a file.
func (v *Volume) ReadFile(name string) ([]byte, error) { return os.ReadFile(v.path(name)) }

// In reads an ESP's files from a file system.
func In(f fs.FS) Files { return tree{f} }

type tree struct{ fs fs.FS }

func (t tree) ReadDir(dir string) ([]string, error) {
	files, err := fs.ReadDir(t.fs, dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names, nil
}

func (t tree) ReadFile(name string) ([]byte, error) { return fs.ReadFile(t.fs, name) }

// Put makes a file have this content: one that exists has its old content before, and the new one afterwards. Nobody
// must look at one that does not exist yet.
func (v *Volume) Put(name string, data []byte) (changed bool, err error) {
	temp := stagedName(name)
	have, err := v.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := v.FS.MkdirAll(filepath.Dir(v.path(name)), 0o755); err != nil {
			return false, err
		}
		return true, v.create(name, data)
	case err != nil:
		return false, err
	case bytes.Equal(have, data):
		return false, v.Remove(temp) // of a run that was interrupted
	}
	if err := v.create(temp, data); err != nil {
		return false, err
	}
	err = v.FS.Do(durable.Step{Kind: durable.Exchange, Path: v.path(temp), To: v.path(name)}, func() error {
		return v.Names.Exchange(path.Dir(name), path.Base(temp), path.Base(name))
	})
	if err != nil {
		return false, err
	}
	return true, v.Remove(temp)
}

// putEntry is Put for a file that counts as soon as it has its name, which it gets last.
func (v *Volume) putEntry(name string, data []byte) error {
	if _, err := os.Stat(v.path(name)); !errors.Is(err, fs.ErrNotExist) {
		_, err := v.Put(name, data)
		return err
	}
	if err := v.FS.MkdirAll(filepath.Dir(v.path(name)), 0o755); err != nil {
		return err
	}
	if err := v.create(stagedName(name), data); err != nil {
		return err
	}
	return v.Rename(stagedName(name), name)
}

// create writes a file under a name that nobody looks at yet.
func (v *Volume) create(name string, data []byte) (err error) {
	if err := v.Remove(name); err != nil { // of a run that was interrupted
		return err
	}
	f, err := v.FS.CreateAt(v.path(name), 0o644)
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(v.path(name)) // make room again
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := v.FS.Sync(f); err != nil {
		return err
	}
	return v.FS.SyncDir(filepath.Dir(v.path(name)))
}

// PutSector makes a file of at most a sector have this content, in place where it has that size.
func (v *Volume) PutSector(name string, data []byte) error {
	have, err := v.ReadFile(name)
	switch {
	case err == nil && bytes.Equal(have, data):
		return nil
	case err == nil && len(have) == len(data):
		return v.FS.Overwrite(v.path(name), data, 0)
	case err == nil || errors.Is(err, fs.ErrNotExist):
		if err := v.FS.MkdirAll(filepath.Dir(v.path(name)), 0o755); err != nil {
			return err
		}
		return v.create(name, data)
	}
	return err
}

// Patch makes a sector of a file have this content: off is a multiple of 512, and data has that many bytes.
func (v *Volume) Patch(name string, off int64, data []byte) error {
	f, err := os.Open(v.path(name))
	if err != nil {
		return err
	}
	have := make([]byte, len(data))
	_, err = f.ReadAt(have, off)
	f.Close()
	if err != nil || bytes.Equal(have, data) {
		return err
	}
	return v.FS.Overwrite(v.path(name), data, off)
}

// Section returns a section of an EFI program, and where it is, see [uki.Place].
func (v *Volume) Section(name, section string) (data []byte, off int64, err error) {
	f, err := os.Open(v.path(name))
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	off, size, err := uki.Place(f, info.Size(), section)
	if err != nil || size > 1<<20 {
		return nil, 0, errors.Join(err, fmt.Errorf("%s: no section %s that can be changed", name, section))
	}
	data = make([]byte, size)
	_, err = f.ReadAt(data, off)
	return data, off, err
}

// HasSection says whether an EFI program has a section; it may be signed.
func (v *Volume) HasSection(name, section string) bool {
	f, err := os.Open(v.path(name))
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = uki.ReadSection(f, section, 1<<20)
	return err == nil
}

// Rename gives a file another name in its directory.
func (v *Volume) Rename(from, to string) error {
	err := v.FS.Do(durable.Step{Kind: durable.Rename, Path: v.path(from), To: v.path(to)}, func() error {
		return v.Names.Rename(path.Dir(from), path.Base(from), path.Base(to))
	})
	if err != nil {
		return err
	}
	return v.FS.SyncDir(filepath.Dir(v.path(to)))
}

// Remove takes away the name of a file, or of a directory with all that is in it. That there is none is no error.
func (v *Volume) Remove(name string) error {
	if _, err := os.Lstat(v.path(name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	err := v.FS.Do(durable.Step{Kind: durable.Remove, Path: v.path(name)}, func() error {
		return v.Names.Remove(path.Dir(name), path.Base(name))
	})
	if err != nil {
		return err
	}
	return v.FS.SyncDir(filepath.Dir(v.path(name)))
}
