package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/internal/follow"
)

// tree is an image's root, in which links lead where they will in the booted system.
type tree struct{ fs.FS }

// resolve returns the name of what a path leads to, without links in it. The last part
// need not exist.
func (t tree) resolve(name string) (string, error) {
	real, missing, err := follow.Links(t.FS, name)
	if err == nil && missing > 1 {
		err = &fs.PathError{Op: "resolve", Path: name, Err: fs.ErrNotExist}
	}
	return real, err
}

// readFile reads a file of at most so many bytes.
func (t tree) readFile(name string, limit int64) ([]byte, error) {
	real, err := t.resolve(name)
	if err != nil {
		return nil, err
	}
	b, err := bounded.ReadFile(t.FS, real, limit)
	if err != nil {
		return nil, fmt.Errorf("read /%s: %w", name, err)
	}
	return b, nil
}

func (t tree) stat(name string) (fs.FileInfo, error) {
	real, err := t.resolve(name)
	if err != nil {
		return nil, err
	}
	return fs.Lstat(t.FS, real)
}

// names lists a folder; a folder that does not exist has no names.
func (t tree) names(dir string) ([]string, error) {
	real, err := t.resolve(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(t.FS, real)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// sub returns the file system below a folder.
func (t tree) sub(dir string) (fs.FS, error) {
	real, err := t.resolve(dir)
	if err != nil {
		return nil, err
	}
	return fs.Sub(t.FS, real)
}

func (t tree) isFile(name string) bool {
	info, err := t.stat(name)
	return err == nil && info.Mode().IsRegular()
}

func (t tree) isDir(name string) bool {
	info, err := t.stat(name)
	return err == nil && info.IsDir()
}
