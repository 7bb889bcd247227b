// Package disktest has what tests of media share: files with content that is known, media written to a file, and the
// programs that judge them.
package disktest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/sparse"
)

// Time is one that every file system can say.
var Time = time.Date(2024, 2, 29, 12, 34, 56, 0, time.UTC)

// Tool runs a program that Kairos did not write, to judge what it wrote. A missing one fails the
// test.
func Tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Write writes an image to a stream and, sparse, to a file, checks that both are the same, and
// returns the file's name.
func Write(t *testing.T, lay func() (*sparse.Image, error)) string {
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
	name := WriteSparse(t, lay)
	if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, streams[0].Bytes()) {
		t.Errorf("the sparse file differs from the stream (%v)", err)
	}
	return name
}

// WriteSparse writes an image to a file that is as sparse as the image.
func WriteSparse(t *testing.T, lay func() (*sparse.Image, error)) string {
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

// Content makes distinguishable bytes.
func Content(seed string, n int) []byte {
	b := bytes.Repeat([]byte(seed+"\n"), n/(len(seed)+1)+1)
	return b[:n]
}

// ManyFiles are files with long names in one folder.
func ManyFiles(n int) []filetree.File {
	var files []filetree.File
	for i := range n {
		files = append(
			files,
			filetree.Bytes(fmt.Sprintf("many/a rather long name with number %03d.data", i), Content(fmt.Sprint(i), i)),
		)
	}
	return files
}

// RootFiles are such files in the root folder.
func RootFiles(n int) []filetree.File {
	files := ManyFiles(n)
	for i := range files {
		files[i].Path = strings.TrimPrefix(files[i].Path, "many/")
	}
	return files
}
