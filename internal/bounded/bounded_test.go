package bounded

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// liar is a file that says that it has no bytes, or very many.
type liar struct {
	fs.File
	size int64
}

type lies struct {
	fs.FS
	size int64
}

func (l lies) Open(name string) (fs.File, error) {
	f, err := l.FS.Open(name)
	return liar{f, l.size}, err
}

func (l liar) Stat() (fs.FileInfo, error) { return info{l.size}, nil }

type info struct{ size int64 }

func (i info) Name() string       { return "f" }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return 0o644 }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return false }
func (i info) Sys() any           { return nil }

func TestReadFile(t *testing.T) {
	files := fstest.MapFS{"f": {Data: []byte("12345")}}
	for _, c := range []struct {
		fsys fs.FS
		max  int64
		ok   bool
	}{
		{files, 5, true},
		{files, 4, false},
		{lies{files, 0}, 5, true},
		{lies{files, 0}, 4, false},
		{lies{files, 1 << 50}, 1 << 20, false}, // without taking a petabyte of memory first
	} {
		b, err := ReadFile(c.fsys, "f", c.max)
		if c.ok && (err != nil || string(b) != "12345") {
			t.Errorf("%+v: %q, %v", c, b, err)
		}
		if tooLarge := (*SizeError)(nil); !c.ok && !errors.As(err, &tooLarge) {
			t.Errorf("%+v: %q, %v", c, b, err)
		}
	}
	if _, err := ReadFile(files, "g", 5); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// The first file that can be read counts, and without one the first that is there says why.
func TestReadFirst(t *testing.T) {
	files := fstest.MapFS{"large": {Data: []byte("123456")}, "f": {Data: []byte("12345")}, "g": {Data: []byte("1")}}
	tooLarge := (*SizeError)(nil)
	if b, err := ReadFirst(files, 5, "none", "large", "f", "g"); err != nil || string(b) != "12345" {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := ReadFirst(files, 5, "none", "large", "other"); !errors.As(err, &tooLarge) {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := ReadFirst(files, 5, "none", "other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%q, %v", b, err)
	}
}

func TestReadAll(t *testing.T) {
	if b, err := ReadAll(strings.NewReader("123"), 3); err != nil || string(b) != "123" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := ReadAll(strings.NewReader("1234"), 3); err == nil ||
		!strings.Contains(err.Error(), "more than 3 bytes") {
		t.Error(err)
	}
}
