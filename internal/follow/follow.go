// Package follow follows the links in an image's tree as the booted system will, with the image's root as /. File
// systems differ in how they treat links that are absolute or that lead out of them.
package follow

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
)

// maxLinks are as many as the kernel follows, path_resolution(7).
const maxLinks = 40

// ErrLoop says that links lead in a circle, or through too many.
var ErrLoop = errors.New("too many links")

// Links returns the name of what a path leads to, without links in it; "." is the root. The last missing parts of it
// do not exist. An error is [ErrLoop], [syscall.ENOTDIR] where a file has parts behind it, [fs.ErrNotExist] where a
// link goes up from what does not exist, or one of reading.
func Links(root fs.FS, name string) (real string, missing int, err error) {
	real, rest := ".", strings.Split(name, "/")
	fail := func(err error) (string, int, error) {
		return "", 0, &fs.PathError{Op: "follow", Path: name, Err: err}
	}
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if missing > 0 {
				return fail(fs.ErrNotExist)
			}
			real = path.Dir(real)
			continue
		}
		next := path.Join(real, part)
		if missing > 0 {
			real, missing = next, missing+1
			continue
		}
		info, err := fs.Lstat(root, next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			real, missing = next, 1
		case err != nil:
			return "", 0, err
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return fail(ErrLoop)
			}
			target, err := fs.ReadLink(root, next)
			if err != nil {
				return "", 0, err
			}
			if path.IsAbs(target) {
				real = "."
			}
			rest = slices.Concat(strings.Split(target, "/"), rest)
		case !info.IsDir() && strings.Join(rest, "") != "":
			return fail(syscall.ENOTDIR)
		default:
			real = next
		}
	}
	return real, missing, nil
}
