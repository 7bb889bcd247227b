package verity

import (
	"bytes"
	"errors"
	"testing"
)

// Where the tree is known, the file is the same bytes, and nothing else than the tree's data is accepted.
func TestKnownTree(t *testing.T) {
	const blocks = 300
	size := int64(blocks * BlockSize)
	data := make([]byte, size)
	for i := range blocks {
		data[i*BlockSize], data[i*BlockSize+1] = byte(i), byte(i>>8)
	}
	var want grown
	w := NewWriter(&want)
	if _, err := w.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	root, total, err := w.Finish(size)
	if err != nil {
		t.Fatal(err)
	}
	begin := func() (*Writer, *grown) {
		var f grown
		w, err := NewWriterOf(&f, want.b[size:], size, root)
		if err != nil {
			t.Fatal(err)
		}
		return w, &f
	}
	w, f := begin()
	half := size / 2 / BlockSize * BlockSize
	for _, off := range []int64{half, 0} {
		if _, err := w.WriteAt(data[off:off+half], off); err != nil {
			t.Fatal(err)
		}
	}
	got, n, err := w.Finish(size)
	if err != nil || got != root || n != total || !bytes.Equal(f.b, want.b) {
		t.Errorf("%s, %d bytes, %v", got, n, err)
	}

	w, _ = begin()
	bad := bytes.Clone(data)
	bad[7*BlockSize+1] ^= 1
	bad[200*BlockSize] ^= 1
	if _, err := w.WriteAt(bad, 0); err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if _, _, err := w.Finish(size); !errors.As(err, &corrupt) || corrupt.What != "data" || corrupt.Block != 7 {
		t.Errorf("other data: %v", err)
	}

	w, _ = begin()
	_, err = w.WriteAt(data[:half], 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(data[:BlockSize], 0); err == nil {
		t.Error("a block was written twice")
	}
	if _, err := w.WriteAt(data[:BlockSize], size); err == nil {
		t.Error("a block behind the data was written")
	}
	if _, _, err := w.Finish(size); err == nil {
		t.Error("finished without half of the data")
	}

	tree := bytes.Clone(want.b[size:])
	tree[BlockSize] ^= 1
	if _, err := NewWriterOf(&grown{}, tree, size, root); !errors.As(err, &corrupt) {
		t.Errorf("another tree: %v", err)
	}
}
