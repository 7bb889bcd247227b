package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// tree is an image's root. File systems differ in how they treat links that are absolute or
// that lead out of them, so links are resolved here: as the booted system will, with the
// image's root as /.
type tree struct{ fs.FS }

// resolve returns the name of what a path leads to, without links in it. The last part
// need not exist.
func (t tree) resolve(name string) (string, error) {
	done, rest := ".", strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		info, err := fs.Lstat(t.FS, next)
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && len(rest) == 0) {
			return "", err
		}
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		if links++; links > 40 {
			return "", &fs.PathError{Op: "resolve", Path: name, Err: errors.New("too many links")}
		}
		target, err := fs.ReadLink(t.FS, next)
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			done = "."
		}
		rest = slices.Concat(strings.Split(target, "/"), rest)
	}
	return done, nil
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
	if errors.Is(err, fs.ErrNotExist) {
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
