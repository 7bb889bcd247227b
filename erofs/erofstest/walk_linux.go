package erofstest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// WalkDir returns everything below a folder, as Walk does for an image.
func WalkDir(root string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f, err := describeFile(path, name)
		files = append(files, f)
		return err
	})
	return files, err
}

func describeFile(path, name string) (f File, err error) {
	var s unix.Stat_t
	if err := unix.Lstat(path, &s); err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	f = File{
		Name: name, Mode: s.Mode, UID: s.Uid, GID: s.Gid, Nlink: uint32(s.Nlink), Ino: s.Ino,
		ModTime: time.Unix(s.Mtim.Sec, s.Mtim.Nsec),
	}
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f.Size = s.Size
		file, err := os.Open(path)
		if err != nil {
			return f, err
		}
		defer file.Close()
		if f.Sum, err = Sum(file, f.Size); err != nil {
			return f, err
		}
	case unix.S_IFLNK:
		if f.Link, err = os.Readlink(path); err != nil {
			return f, err
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		f.Rdev = s.Rdev
	}
	f.Xattrs, err = readXattrs(path)
	return f, err
}

func readXattrs(path string) (map[string][]byte, error) {
	list := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, list)
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: list extended attributes: %w", path, err)
	}
	attrs := map[string][]byte{}
	value := make([]byte, 1<<16)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("%s: extended attribute %s: %w", path, name, err)
		}
		attrs[name] = append([]byte{}, value[:n]...)
	}
	return attrs, nil
}
