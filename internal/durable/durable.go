// Package durable changes files so that a power cut leaves the old or the new state, and
// nothing else.
//
// The order is always the same: a new file under a temporary name, its bytes, fsync of the
// file, rename, fsync of the folder. Every step passes through one place, [FS.Before], by
// which tests enumerate the steps from the code, end the program between any two of them,
// and keep a journal from which they rebuild what a disk may hold after a power cut.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is a kind of step.
type Kind string

// The kinds of steps. Data that is written to a file under a temporary name is no step of
// its own: it is nowhere until Sync, and nobody looks before Rename.
const (
	Mkdir     Kind = "mkdir"
	Create    Kind = "create"    // a file under a temporary name, still empty
	Sync      Kind = "sync"      // fsync of a file: now its bytes are on the disk
	Rename    Kind = "rename"    // Path to To
	Remove    Kind = "remove"    // a file or an empty folder
	SyncDir   Kind = "sync-dir"  // fsync of a folder: now its names are on the disk
	Overwrite Kind = "overwrite" // one block of a file, in place
	Exchange  Kind = "exchange"  // the content of Path and To
)

// Step is one step.
type Step struct {
	Kind Kind
	Path string
	To   string // Rename only
	Data []byte // Overwrite only
	Off  int64  // Overwrite only
}

func (s Step) String() string {
	if s.To != "" {
		return fmt.Sprintf("%s %s to %s", s.Kind, s.Path, s.To)
	}
	return fmt.Sprintf("%s %s", s.Kind, s.Path)
}

// FS does the steps. A nil *FS is ready to use.
type FS struct {
	// Before is called before each step. Its error takes the step's place.
	Before func(Step) error
	// Lazy leaves out every sync: for files that are checked before use and easily regenerated.
	Lazy bool
}

// TempPrefix begins the names of files that are not finished.
const TempPrefix = ".tmp-"

// IsTemp says whether a file name is that of a file that was not finished.
func IsTemp(name string) bool { return strings.HasPrefix(name, TempPrefix) }

// TempName returns the temporary name of the file path.
func TempName(path string) string {
	return filepath.Join(filepath.Dir(path), TempPrefix+filepath.Base(path))
}

func (f *FS) before(s Step) error {
	if f == nil || f.Before == nil {
		return nil
	}
	return f.Before(s)
}

// Do does a step that this package has no function for: one atomic write of the disk.
func (f *FS) Do(s Step, do func() error) error {
	if err := f.before(s); err != nil {
		return err
	}
	return do()
}

// MkdirAll makes a folder and those above it, as far as they are missing.
func (f *FS) MkdirAll(dir string, perm fs.FileMode) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: errors.New("a file is in the way")}
		}
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := f.MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := f.before(Step{Kind: Mkdir, Path: dir}); err != nil {
		return err
	}
	if err := os.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return f.SyncDir(filepath.Dir(dir))
}

// ErrBusy says that another process is making the same file.
var ErrBusy = errors.New("another process is writing this file")

// Create opens a new, empty file under the temporary name of path, or takes over one that
// was left there. The name is locked as long as the file is open: [ErrBusy] where another
// has it.
func (f *FS) Create(path string, perm fs.FileMode) (*os.File, error) {
	file, err := f.Resume(path, perm)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(0); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// Resume is Create, but for what an earlier run has written: it stays. Nothing of it is sure to be what was written,
// or durable.
func (f *FS) Resume(path string, perm fs.FileMode) (*os.File, error) {
	temp := TempName(path)
	if err := f.before(Step{Kind: Create, Path: temp}); err != nil {
		return nil, err
	}
	for {
		file, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE, perm)
		if err != nil {
			return nil, err
		}
		current, err := lock(file)
		if err != nil {
			file.Close()
			return nil, err
		}
		if current {
			return file, nil
		}
		file.Close() // it was finished or removed before we had the lock
	}
}

// CreateAt opens a new, empty file under a name that is temporary by another rule than
// this package's.
func (f *FS) CreateAt(path string, perm fs.FileMode) (*os.File, error) {
	if err := f.before(Step{Kind: Create, Path: path}); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
}

// lock locks an open file, and says whether its name is still this file's.
func lock(file *os.File) (current bool, err error) {
	switch err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return false, &fs.PathError{Op: "lock", Path: file.Name(), Err: ErrBusy}
	case err != nil:
		return false, &fs.PathError{Op: "lock", Path: file.Name(), Err: err}
	}
	mine, err := file.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(file.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, named), err
}

// Discard closes a file from Create that will not be finished, and removes it.
func (f *FS) Discard(file *os.File) {
	os.Remove(file.Name()) // while we have the lock; a leftover is no harm, it only takes space
	file.Close()
}

// RemoveLeftovers removes the unfinished files in a folder that nobody is writing.
func (f *FS) RemoveLeftovers(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !IsTemp(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		if err := f.removeLeftover(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (f *FS) removeLeftover(path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	current, err := lock(file)
	if errors.Is(err, ErrBusy) || err == nil && !current {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Remove(path)
}

// Commit gives a file from Create its final name. Its bytes are on the disk before, its
// name afterwards. The file stays open.
func (f *FS) Commit(file *os.File, path string) error {
	if err := f.Sync(file); err != nil {
		return err
	}
	return f.Rename(file.Name(), path)
}

// Sync fsyncs a file.
func (f *FS) Sync(file *os.File) error {
	if f != nil && f.Lazy {
		return nil
	}
	if err := f.before(Step{Kind: Sync, Path: file.Name()}); err != nil {
		return err
	}
	return file.Sync()
}

// Rename replaces to by from, in one folder or between two of one file system.
func (f *FS) Rename(from, to string) error {
	if err := f.before(Step{Kind: Rename, Path: from, To: to}); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := f.SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) != filepath.Dir(to) {
		return f.SyncDir(filepath.Dir(from))
	}
	return nil
}

// Remove removes a file or an empty folder. That there is none is no error.
func (f *FS) Remove(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := f.before(Step{Kind: Remove, Path: path}); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return f.SyncDir(filepath.Dir(path))
}

// WriteFile makes a file, or replaces one as a whole.
func (f *FS) WriteFile(path string, data []byte, perm fs.FileMode) (err error) {
	file, err := f.Create(path, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Discard(file)
		}
	}()
	if _, err := file.Write(data); err != nil {
		return err
	}
	if err := f.Commit(file, path); err != nil {
		return err
	}
	return file.Close()
}

// Overwrite writes data into a file in place, which is atomic where the data lies within
// one sector of the disk.
func (f *FS) Overwrite(path string, data []byte, off int64) error {
	if err := f.before(Step{Kind: Overwrite, Path: path, Data: data, Off: off}); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteAt(data, off); err != nil {
		return err
	}
	if err := f.Sync(file); err != nil {
		return err
	}
	return file.Close()
}

// SyncDir fsyncs a folder: the names in it are durable.
func (f *FS) SyncDir(dir string) error {
	if f != nil && f.Lazy {
		return nil
	}
	if err := f.before(Step{Kind: SyncDir, Path: dir}); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
