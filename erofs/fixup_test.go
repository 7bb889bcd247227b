package erofs

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"strings"
	"testing"
	"time"
)

// treesOf converts layers, the lowest first.
func treesOf(t *testing.T, layers ...[]byte) []fs.FS {
	t.Helper()
	var trees []fs.FS
	for _, l := range layers {
		var m memory
		size, err := Convert(t.Context(), &m, bytes.NewReader(l), Options{})
		if err != nil {
			t.Fatal(err)
		}
		tree, err := Open(bytes.NewReader(m.b[:size]))
		if err != nil {
			t.Fatal(err)
		}
		trees = append(trees, tree)
	}
	return trees
}

// memory is an io.WriterAt.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(m.b) {
		m.b = append(m.b, make([]byte, need-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func layerTar(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dirHeader(name string, mode int64, uid int, attrs ...string) tar.Header {
	h := tar.Header{
		Typeflag:   tar.TypeDir,
		Name:       name + "/",
		Mode:       mode,
		Uid:        uid,
		ModTime:    time.Unix(1700000000, 5),
		Format:     tar.FormatPAX,
		PAXRecords: map[string]string{},
	}
	for i := 0; i+1 < len(attrs); i += 2 {
		h.PAXRecords["SCHILY.xattr."+attrs[i]] = attrs[i+1]
	}
	return h
}

func fileHeader(name string) tar.Header { return tar.Header{Name: name, Mode: 0o644} }

// A layer that names a file and not the directories above it changes none of them.
func TestImpliedDirectoriesStayWhatTheyAre(t *testing.T) {
	base := layerTar(
		t,
		dirHeader("var", 0o755, 0),
		dirHeader("var/tmp", 0o1777, 7, "user.a", "b", "trusted.overlay.opaque", "y"),
		fileHeader("var/tmp/old"),
	)
	late := layerTar(t, fileHeader("var/tmp/x"), fileHeader("new/dir/y"))
	trees := treesOf(t, base, late)
	stat := func(merged fs.FS, name string) (fs.FileMode, uint32, string, time.Time) {
		t.Helper()
		info, err := fs.Stat(merged, name)
		if err != nil {
			t.Fatal(err)
		}
		s := info.Sys().(*Stat)
		return info.Mode(), s.UID, string(s.Xattrs["user.a"]), info.ModTime()
	}
	if mode, _, _, _ := stat(Overlay(trees...), "var/tmp"); mode != fs.ModeDir|0o755 {
		t.Fatalf("this test no longer shows what overlayfs does: %v", mode)
	}
	fix, err := FixUp(trees...)
	if err != nil || fix == nil {
		t.Fatal(fix, err)
	}
	if again, _ := FixUp(treesOf(t, base, late)...); !bytes.Equal(fix, again) {
		t.Error("equal layers, another layer on top")
	}
	merged := Overlay(append(trees, treesOf(t, fix)...)...)
	wantMode, wantUID, wantAttr, wantTime := stat(trees[0], "var/tmp")
	mode, uid, attr, when := stat(merged, "var/tmp")
	if mode != wantMode || uid != wantUID || attr != wantAttr || !when.Equal(wantTime) ||
		wantMode != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("%v %d %q %v, want %v %d %q %v", mode, uid, attr, when, wantMode, wantUID, wantAttr, wantTime)
	}
	if mode, _, _, when := stat(merged, "var"); mode != fs.ModeDir|0o755 || when.IsZero() || when.Unix() == 0 {
		t.Errorf("/var: %v %v", mode, when)
	}
	for _, name := range []string{"var/tmp/x", "var/tmp/old", "new/dir/y"} {
		if _, err := fs.Stat(merged, name); err != nil {
			t.Error(err)
		}
	}
	// With the layer on top there is nothing to set right any more.
	if more, err := FixUp(append(trees, treesOf(t, fix)...)...); err != nil || more != nil {
		t.Errorf("once more: %d bytes, %v", len(more), err)
	}
}

func TestFixUpIsForStacksThatNeedIt(t *testing.T) {
	link := func(name, target string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
	}
	usr := []tar.Header{dirHeader("usr", 0o755, 0), dirHeader("usr/lib", 0o755, 0), link("lib", "usr/lib")}
	for name, c := range map[string]struct {
		layers [][]byte
		fixed  bool
		err    string
	}{
		"directories are named": {layers: [][]byte{
			layerTar(t, dirHeader("a", 0o700, 1)), layerTar(t, dirHeader("a", 0o755, 0), fileHeader("a/b")),
		}},
		"one layer":     {layers: [][]byte{layerTar(t, fileHeader("a/b"))}},
		"nothing below": {layers: [][]byte{layerTar(t, fileHeader("x")), layerTar(t, fileHeader("a/b"))}},
		"named again above": {layers: [][]byte{layerTar(t, dirHeader("a", 0o700, 1)), layerTar(t, fileHeader("a/b")),
			layerTar(t, dirHeader("a", 0o711, 1))}},
		"removed above": {layers: [][]byte{
			layerTar(t, dirHeader("a", 0o700, 1)), layerTar(t, fileHeader("a/b")), layerTar(t, fileHeader(".wh.a")),
		}},
		"replaced": {layers: [][]byte{
			layerTar(t, dirHeader("a", 0o700, 1)), layerTar(t, fileHeader(".wh.a"), fileHeader("a/b")),
		}},
		"whiteout alone": {layers: [][]byte{
			layerTar(t, dirHeader("a", 0o700, 1), fileHeader("a/b")), layerTar(t, fileHeader("a/.wh.b")),
		}, fixed: true},
		"below a link": {layers: [][]byte{layerTar(t, usr...), layerTar(t, fileHeader("lib/x"))},
			err: "layer 2: it has files below /lib, which is a link to usr/lib in a layer below it"},
		"the link's folder is named": {layers: [][]byte{
			layerTar(t, usr...), layerTar(t, dirHeader("lib", 0o755, 0), fileHeader("lib/x")),
		}},
		"below a file": {layers: [][]byte{layerTar(t, fileHeader("a")), layerTar(t, fileHeader("a/b"))},
			err: "which is a file in a layer below it"},
		"a link that is replaced on the way": {layers: [][]byte{layerTar(t,
			append(usr, dirHeader("usr/lib/m", 0o700, 0))...),
			layerTar(t, dirHeader("lib", 0o755, 0), fileHeader("lib/m/x"))}},
	} {
		fix, err := FixUp(treesOf(t, c.layers...)...)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil || (fix != nil) != c.fixed {
			t.Errorf("%s: %d bytes, %v", name, len(fix), err)
		}
	}
}
