package sparse_test

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/sparse"
)

func TestImageRefusesWhatDoesNotFit(t *testing.T) {
	short := filetree.File{
		Path: "short",
		Size: 10,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("123")), nil },
	}
	long := filetree.File{
		Path: "long",
		Size: 2,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("123")), nil },
	}
	gone := filetree.File{Path: "gone", Size: 2, Open: func() (io.ReadCloser, error) { return nil, os.ErrNotExist }}
	for name, c := range map[string]struct {
		at   int64
		file filetree.File
		want string
	}{
		"short file":   {0, short, "7 of 10 bytes are missing"},
		"long file":    {0, long, "more than the 2 bytes"},
		"missing file": {0, gone, "read gone"},
		"past the end": {95, short, "exceeds"},
	} {
		m := &sparse.Image{Size: 100}
		m.Add(c.at, c.file.Extent())
		if err := m.WriteTo(context.Background(), io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	m := &sparse.Image{Size: 100}
	m.AddBytes(0, "a", make([]byte, 10))
	m.AddBytes(9, "b", make([]byte, 10))
	if err := m.WriteTo(context.Background(), io.Discard); err == nil {
		t.Error("extents overlap, and nobody says so")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := (&sparse.Image{Size: 100}).WriteTo(ctx, io.Discard); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}
