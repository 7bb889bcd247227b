package boottest

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"maps"
	"path"
	"slices"
	"testing"
	"testing/fstest"
)

// WithFolders is a tree with the folders above its files, as container builders have them.
func WithFolders(tree fstest.MapFS) fstest.MapFS {
	all := maps.Clone(tree)
	for name := range tree {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if all[dir] == nil {
				all[dir] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
			}
		}
	}
	return all
}

// Tar packs a tree as a layer, by name: folders, files and links, those alone that are in it.
func Tar(t testing.TB, tree fstest.MapFS) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		f := tree[name]
		h := &tar.Header{
			Typeflag: tar.TypeReg,
			Name:     name,
			Mode:     int64(f.Mode.Perm()) | int64(f.Mode&fs.ModeSticky>>20)<<9,
			Size:     int64(len(f.Data)),
		}
		switch {
		case f.Mode.IsDir():
			h.Typeflag, h.Size = tar.TypeDir, 0
		case f.Mode&fs.ModeSymlink != 0:
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, string(f.Data), 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write(f.Data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
