// Package bounded reads what a stranger made, such as the files of an image, into memory that
// the reader sets: a file may claim terabytes and have none.
package bounded

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// SizeError says that something is larger than what reads it takes. Both are in bytes.
type SizeError struct{ Max int64 }

func (e *SizeError) Error() string { return fmt.Sprintf("it has more than %s", size(e.Max)) }

// size is a number of bytes for people.
func size(n int64) string {
	if n >= 1<<20 && n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}

// ReadFile returns the content of a file that has at most so many bytes. Of a larger one it
// reads nothing: the error is a [SizeError].
func ReadFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: &SizeError{limit}}
	}
	b := bytes.NewBuffer(make([]byte, 0, max(info.Size(), 0)+bytes.MinRead))
	if err := copyTo(b, f, limit); err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b.Bytes(), nil
}

// ReadFirst is [ReadFile] of the first of several files that can be read. Where none can, the error is that of the
// first one that is there, or else [fs.ErrNotExist].
func ReadFirst(fsys fs.FS, limit int64, names ...string) ([]byte, error) {
	failed := fs.ErrNotExist
	for _, name := range names {
		b, err := ReadFile(fsys, name, limit)
		if err == nil {
			return b, nil
		}
		if errors.Is(failed, fs.ErrNotExist) {
			failed = err
		}
	}
	return nil, failed
}

// ReadAll returns what r gives, if that is at most so many bytes.
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	var b bytes.Buffer
	if err := copyTo(&b, r, limit); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func copyTo(b *bytes.Buffer, r io.Reader, limit int64) error {
	n, err := b.ReadFrom(io.LimitReader(r, limit+1))
	if err != nil {
		return err
	}
	if n > limit {
		return &SizeError{limit}
	}
	return nil
}
