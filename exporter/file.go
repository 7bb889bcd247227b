package exporter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/disk/sparse"
	"github.com/kairos-buildkit/kairos/internal/durable"
)

// WriteFile makes the file name with what write writes, and name.sha256 beside it. The
// file has its name only once it is complete and on the disk: until then, and when
// anything fails, what was there before stays. It returns the SHA-256 in hex.
func WriteFile(name string, write func(io.Writer) error) (sum string, err error) {
	sum, err = writeFile(name, write)
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "", fmt.Errorf(
			"write %s: the disk is full: make room on it, or choose another place with dest=: %w",
			name,
			err,
		)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return "", fmt.Errorf("write %s: no permission to write there: choose another place with dest=: %w", name, err)
	case errors.Is(err, durable.ErrBusy):
		return "", fmt.Errorf("write %s: another export is writing it: wait for that one to end: %w", name, err)
	case err != nil:
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return sum, nil
}

func writeFile(name string, write func(io.Writer) error) (_ string, err error) {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return "", errors.New("it is there and not a regular file")
	}
	dir := filepath.Dir(name)
	if info, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("its folder: %w", err)
	} else if !info.IsDir() {
		return "", fmt.Errorf("%s is not a folder", dir)
	}
	var d *durable.FS
	file, err := d.Create(name, 0o644)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			d.Discard(file)
		}
	}()
	size := int64(0)
	sum, err := writeHashed(file, write, func(n int64) { size = n })
	if err != nil {
		return "", err
	}
	if err := file.Truncate(size); err != nil {
		return "", err
	}
	// The old checksum goes first: a file beside another file's checksum looks damaged.
	if err := d.Remove(name + ".sha256"); err != nil {
		return "", err
	}
	if err := d.Commit(file, name); err != nil {
		return "", err
	}
	if err := file.Close(); err != nil {
		return "", err
	}
	return sum, writeChecksum(name, sum)
}

// writeHashed writes to a new file. What is zero, as most of a disk is, becomes holes.
func writeHashed(file *os.File, write func(io.Writer) error, report func(size int64)) (string, error) {
	digest := newAsideHash()
	counted := &countingWriter{w: io.MultiWriter(digest, sparse.NewWriter(file)), report: report}
	buffered := bufio.NewWriterSize(counted, 1<<20)
	err := write(buffered)
	if err == nil {
		err = buffered.Flush()
	}
	return digest.close(), err
}

// writeChecksum makes name.sha256, in the form that `sha256sum -c` reads in that folder.
func writeChecksum(name, sum string) error {
	var d *durable.FS
	return d.WriteFile(name+".sha256", fmt.Appendf(nil, "%s  %s\n", sum, filepath.Base(name)), 0o644)
}
