package store

import (
	"bytes"
	"os"
	"testing"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/layout"
)

// A blob that has rotted, at its full size, is replaced by the bytes that its releases list, or stays.
func TestRepair(t *testing.T) {
	s, other := New(t.TempDir()), New(t.TempDir())
	b, id := layerTar(t, "hello", "world")
	layer, err := s.AddLayer(t.Context(), id, bytes.NewReader(b), erofs.Options{Compression: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.AddLayer(t.Context(), id, bytes.NewReader(b), erofs.Options{Compression: "none"}); err != nil {
		t.Fatal(err)
	}
	rot := func(s *Store) {
		t.Helper()
		f, err := os.OpenFile(s.BlobPath(id), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("rot"), layer.Size-3); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	from := func() *os.File {
		t.Helper()
		f, err := other.OpenBlob(id)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}

	rot(s)
	if _, err := s.CopyBlob(t.Context(), layer, from()); err != nil {
		t.Fatal(err)
	}
	if s.VerifyBlob(layer) == nil {
		t.Fatal("CopyBlob has replaced a blob: this test proves nothing")
	}
	if err := s.RepairBlob(t.Context(), layer, from()); err != nil {
		t.Fatal(err)
	}
	if err := s.VerifyBlob(layer); err != nil {
		t.Error(err)
	}

	rot(s)
	if err := s.RepairLayer(t.Context(), layer, bytes.NewReader(b), erofs.Options{Compression: "none"}); err != nil {
		t.Fatal(err)
	}
	if err := s.VerifyBlob(layer); err != nil {
		t.Error(err)
	}

	// Neither rotten bytes nor another conversion take the place of what is there.
	rot(s)
	rot(other)
	before, err := os.ReadFile(s.BlobPath(id))
	if err != nil {
		t.Fatal(err)
	}
	if s.RepairBlob(t.Context(), layer, from()) == nil {
		t.Error("a rotten blob was taken over")
	}
	wrong := layout.Layer{DiffID: id, Size: layer.Size, RootHash: layer.RootHash[:62] + "00"}
	if s.RepairLayer(t.Context(), wrong, bytes.NewReader(b), erofs.Options{Compression: "none"}) == nil {
		t.Error("a blob with another root hash was taken")
	}
	after, err := os.ReadFile(s.BlobPath(id))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("a repair that failed changed the blob (%v)", err)
	}
}
