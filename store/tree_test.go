package store

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// A tree whose layers lie in two stores has the files of both, and a block that one of the disks has lost since is an
// error when it is read, never other content.
func TestTreeOfTwoStoresIsVerified(t *testing.T) {
	stores := []*Store{New(t.TempDir()), New(t.TempDir())}
	texts := []string{strings.Repeat("the lower one ", 1000), strings.Repeat("the upper one ", 1000)}
	files := []string{"lower", "upper"}
	var blobs []*Blob
	var layers []layout.Layer
	for i, s := range stores {
		layer := add(t, s, files[i], texts[i])
		f, err := s.OpenBlob(layer.DiffID)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		blobs = append(blobs, &Blob{Layer: layer, ReaderAt: f, Closer: f})
		layers = append(layers, layer)
	}
	read := func(i int) (string, error) {
		tree, err := MergedTree(blobs)
		if err != nil {
			t.Fatal(err)
		}
		b, err := fs.ReadFile(tree, files[i])
		return string(b), err
	}
	for damaged := range stores {
		name := stores[damaged].BlobPath(layers[damaged].DiffID)
		sound, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(sound, []byte(texts[damaged][:100]))
		if at < 0 {
			t.Fatal("the file's content is not in its blob")
		}
		b := bytes.Clone(sound)
		b[at] ^= 1
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for i := range stores {
			got, err := read(i)
			if corrupt := (*verity.CorruptError)(nil); i == damaged && !errors.As(err, &corrupt) {
				t.Errorf("store %d is damaged: its file: %d bytes, %v", i, len(got), err)
			}
			if i != damaged && (err != nil || got != texts[i]) {
				t.Errorf("store %d is damaged: the other file: %d bytes, %v", damaged, len(got), err)
			}
		}
		// The tree of this store alone is read by the same rule.
		tree, err := stores[damaged].Tree(layers[damaged : damaged+1])
		if err != nil {
			t.Fatal(err)
		}
		_, err = fs.ReadFile(tree, files[damaged])
		if corrupt := (*verity.CorruptError)(nil); !errors.As(err, &corrupt) {
			t.Errorf("store %d alone: %v", damaged, err)
		}
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(name, sound, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
