package exporter

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"testing"
	"testing/fstest"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/verity"
)

// A block that a disk has lost after the cache looked at its blob gets onto no medium.
func TestTreeIsVerifiedWhenItIsRead(t *testing.T) {
	s := store.New(t.TempDir())
	text := bytes.Repeat([]byte("a kernel "), 1000)
	l := layerOf(t, fstest.MapFS{"boot/vmlinuz": {Data: text, Mode: 0o644}})
	tar, err := l.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	layer, err := s.AddLayer(t.Context(), l.DiffID, tar, erofs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.OpenBlob(layer.DiffID)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &prepared{blobs: []*store.Blob{{Layer: layer, ReaderAt: f, Closer: f}}}
	if err := p.openTree(); err != nil {
		t.Fatal(err)
	}
	if b, err := fs.ReadFile(p.root, "boot/vmlinuz"); err != nil || !bytes.Equal(b, text) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	blob, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	blob[bytes.Index(blob, text[:100])] ^= 1
	if err := os.WriteFile(f.Name(), blob, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := p.openTree(); err != nil {
		t.Fatal(err)
	}
	var corrupt *verity.CorruptError
	if _, err := fs.ReadFile(p.root, "boot/vmlinuz"); !errors.As(err, &corrupt) {
		t.Errorf("a damaged block: %v", err)
	}
}
