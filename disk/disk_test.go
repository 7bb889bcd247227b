package disk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var testTime = time.Date(2024, 2, 29, 12, 34, 56, 0, time.UTC)

// tool runs a program that Kairos did not write, to judge what it wrote. A missing one fails the
// test.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// write writes an image to a stream and, sparse, to a file, checks that both are the same, and
// returns the file's name.
func write(t *testing.T, lay func() (*Image, error)) string {
	t.Helper()
	var streams [2]bytes.Buffer
	for i := range streams {
		m, err := lay()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.WriteTo(context.Background(), &streams[i]); err != nil {
			t.Fatal(err)
		}
		if int64(streams[i].Len()) != m.Size {
			t.Fatalf("wrote %d bytes of %d", streams[i].Len(), m.Size)
		}
	}
	if !bytes.Equal(streams[0].Bytes(), streams[1].Bytes()) {
		t.Error("two writes of the same medium differ")
	}
	name := writeSparse(t, lay)
	if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, streams[0].Bytes()) {
		t.Errorf("the sparse file differs from the stream (%v)", err)
	}
	return name
}

func writeSparse(t *testing.T, lay func() (*Image, error)) string {
	t.Helper()
	m, err := lay()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "medium")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(m.Size); err != nil {
		t.Fatal(err)
	}
	if err := m.WriteSparse(context.Background(), f, 0); err != nil {
		t.Fatal(err)
	}
	return name
}

// content makes distinguishable bytes.
func content(seed string, n int) []byte {
	b := bytes.Repeat([]byte(seed+"\n"), n/(len(seed)+1)+1)
	return b[:n]
}

func TestImageRefusesWhatDoesNotFit(t *testing.T) {
	short := File{
		Path: "short",
		Size: 10,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("123")), nil },
	}
	long := File{
		Path: "long",
		Size: 2,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("123")), nil },
	}
	gone := File{Path: "gone", Size: 2, Open: func() (io.ReadCloser, error) { return nil, os.ErrNotExist }}
	for name, c := range map[string]struct {
		at   int64
		file File
		want string
	}{
		"short file":   {0, short, "7 of 10 bytes are missing"},
		"long file":    {0, long, "more than the 2 bytes"},
		"missing file": {0, gone, "read gone"},
		"past the end": {95, short, "exceeds"},
	} {
		m := &Image{Size: 100}
		m.add(c.at, c.file.extent())
		if err := m.WriteTo(context.Background(), io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	m := &Image{Size: 100}
	m.addBytes(0, "a", make([]byte, 10))
	m.addBytes(9, "b", make([]byte, 10))
	if err := m.WriteTo(context.Background(), io.Discard); err == nil {
		t.Error("extents overlap, and nobody says so")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := (&Image{Size: 100}).WriteTo(ctx, io.Discard); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

func TestTreeRefusesBadNames(t *testing.T) {
	for _, files := range [][]File{
		{Bytes("/abs", nil)}, {Bytes("a/../b", nil)}, {Bytes("", nil)}, {Bytes("a//b", nil)}, {Bytes(".", nil)},
		{Bytes("a", nil), Bytes("a", nil)},
		{Bytes("a", nil), Bytes("a/b", nil)},
		{Bytes("a/b", nil), Bytes("a", nil)},
		{{Path: "link", Mode: os.ModeSymlink}},
		{{Path: "unopened", Size: 1}},
	} {
		if _, err := tree(files); err == nil {
			t.Errorf("accepted %v", files)
		}
	}
}

func manyFiles(n int) []File {
	var files []File
	for i := range n {
		files = append(
			files,
			Bytes(fmt.Sprintf("many/a rather long name with number %03d.data", i), content(fmt.Sprint(i), i)),
		)
	}
	return files
}
