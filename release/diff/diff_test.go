package diff

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if n := int(off) + len(p); n > len(m.b) {
		m.b = append(m.b, make([]byte, n-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

// h is an entry of a tar; a name that ends in a slash is a directory's.
type h struct {
	name, content string
	mode          int64
	uid           int
	link, hard    string
}

func tarOf(t *testing.T, entries ...h) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		head := &tar.Header{Name: e.name, Mode: e.mode, Uid: e.uid, Size: int64(len(e.content)), Typeflag: tar.TypeReg}
		if head.Mode == 0 {
			head.Mode = 0o644
		}
		switch {
		case strings.HasSuffix(e.name, "/"):
			head.Typeflag, head.Mode = tar.TypeDir, 0o755
		case e.link != "":
			head.Typeflag, head.Linkname = tar.TypeSymlink, e.link
		case e.hard != "":
			head.Typeflag, head.Linkname = tar.TypeLink, e.hard
		}
		if err := w.WriteHeader(head); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sideOf makes an image of tars, and the blobs of its layers.
func sideOf(t *testing.T, name string, blobs bool, tars ...[]byte) Side {
	t.Helper()
	s := Side{Source: name, NoBlobs: "it has no release"}
	s.Image.ConfigDigest = layout.Digest(digest.FromString(name))
	s.Image.Config.Config.Labels = map[string]string{"version": name, "same": "1"}
	for _, b := range tars {
		id := layout.Digest(digest.FromBytes(b))
		s.Image.Layers = append(s.Image.Layers, image.Layer{
			DiffID: id, Stored: int64(len(b)), Open: func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(b)), nil
			},
		})
		if !blobs {
			continue
		}
		m := &memory{}
		w := verity.NewWriter(m)
		size, err := erofs.Convert(t.Context(), w, bytes.NewReader(b), erofs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		root, _, err := w.Finish(size)
		if err != nil {
			t.Fatal(err)
		}
		s.Blobs = append(s.Blobs, image.Blob{
			Layer: layout.Layer{DiffID: id, Size: size, RootHash: root}, ReaderAt: bytes.NewReader(m.b),
		})
	}
	return s
}

const dpkg = "Package: a\nStatus: install ok installed\nVersion: "

func bootManifest(kernel string) string {
	return `{"kernel":{"version":"` + kernel + `"},"cmdline":"quiet"}`
}

// Two images differ in the same way, whether their layers are tars or blobs.
func TestCompare(t *testing.T) {
	base := tarOf(t, h{name: "etc/"}, h{name: "etc/base", content: "base"}, h{name: "etc/gone", content: "gone"},
		h{name: "opt/"}, h{name: "opt/x", content: "x"}, h{name: "opt/y/"}, h{name: "opt/y/z", content: "zz"},
		h{name: "bin", link: "usr/bin"}, h{name: "same/"}, h{name: "same/deep", content: strings.Repeat("deep", 5000)},
		h{name: "file", content: "file"}, h{name: "hard", hard: "file"}, h{name: "mode", content: "m"},
		h{name: "var/lib/dpkg/status", content: dpkg + "1\n"},
		h{name: layout.ImageBootManifest, content: bootManifest("6.12")})
	one := tarOf(t, h{name: "new/"}, h{name: "new/one", content: "1"}, h{name: "etc/base", content: "base"})
	two := tarOf(t, h{name: "etc/.wh.gone"}, h{name: "opt/"}, h{name: "opt/w", content: "w"},
		h{name: "opt/.wh..wh..opq"}, h{name: "bin", link: "usr/sbin"}, h{name: "file", content: "FILE"},
		h{name: "mode", content: "m", mode: 0o600}, h{name: "same", content: "a file now"},
		h{name: "new/"}, h{name: "new/two", content: "22", uid: 5},
		h{name: "var/lib/dpkg/status", content: dpkg + "2\n"},
		h{name: layout.ImageBootManifest, content: bootManifest("6.13")})
	status, manifest := int64(len(dpkg+"1\n")), int64(len(bootManifest("6.12")))
	want := []api.FileDifference{
		{Path: "bin", Change: api.FileChanged},
		{Path: "etc/gone", Change: api.FileRemoved, Before: 4},
		{Path: "file", Change: api.FileChanged, Before: 4, After: 4},
		{Path: "mode", Change: api.FileAttributes, Before: 1, After: 1},
		{Path: "new/one", Change: api.FileRemoved, Before: 1},
		{Path: "new/two", Change: api.FileAdded, After: 2},
		{Path: "opt/w", Change: api.FileAdded, After: 1},
		{Path: "opt/x", Change: api.FileRemoved, Before: 1},
		{Path: "opt/y", Change: api.FileRemoved},
		{Path: "opt/y/z", Change: api.FileRemoved, Before: 2},
		{Path: "same", Change: api.FileChanged, After: 10},
		{Path: "same/deep", Change: api.FileRemoved, Before: 20000},
		{Path: layout.ImageBootManifest, Change: api.FileChanged, Before: manifest, After: manifest},
		{Path: "var/lib/dpkg/status", Change: api.FileChanged, Before: status, After: status},
	}
	for _, blobsA := range []bool{false, true} {
		for _, blobsB := range []bool{false, true} {
			a, b := sideOf(t, "A", blobsA, base, one), sideOf(t, "B", blobsB, base, two)
			d, err := Compare(t.Context(), a, b, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(d.Files, want) {
				got, _ := json.MarshalIndent(d.Files, "", " ")
				t.Errorf("blobs of A %v, of B %v: %s", blobsA, blobsB, got)
			}
			if len(d.Boot) != 1 || d.Boot[0] != (api.Difference{Name: "kernel", Before: "6.12", After: "6.13"}) ||
				len(d.Packages) != 1 || d.Packages[0] != (api.Difference{Name: "a", Before: "1", After: "2"}) ||
				len(d.Labels) != 1 || d.Labels[0].Name != "version" {
				t.Errorf("%+v, %+v, %+v", d.Boot, d.Packages, d.Labels)
			}
			by := api.ByLayer
			if blobsA && blobsB {
				by = api.ByBlocks
			}
			if d.Layers[0].By != api.ByNothing || d.Layers[1].By != by || d.Fetch != d.Layers[1].Fetch ||
				(d.WholeLayers == "") != (by == api.ByBlocks) || by == api.ByLayer && d.Fetch != int64(len(two)) {
				t.Errorf("%+v, %q", d.Layers, d.WholeLayers)
			}
		}
	}
	// The same image, and one whose layers are not read.
	a, b := sideOf(t, "A", false, base, one), sideOf(t, "B", false, base, two)
	a.Image.Layers[0].Open, b.Image.Layers[1].Open = nil, nil
	if d, err := Compare(t.Context(), a, a, Options{}); err != nil || d.Fetch != 0 || d.Files != nil {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := Compare(t.Context(), a, b, Options{NoFiles: true}); err != nil || d.FilesUnknown == "" ||
		d.Fetch != int64(len(two)) {
		t.Errorf("%+v, %v", d, err)
	}
}

// Wrong bytes are an error that names the layer.
func TestCompareDamaged(t *testing.T) {
	base := tarOf(t, h{name: "a", content: strings.Repeat("a", 10000)})
	other := tarOf(t, h{name: "a", content: strings.Repeat("b", 10000)})
	for name, damage := range map[string]func(*Side){
		"tar": func(s *Side) {
			s.Blobs = nil
			s.Image.Layers[0].Open = func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(tarOf(t, h{name: "c"}))), nil
			}
		},
		"blob": func(s *Side) {
			b := make([]byte, verity.TotalSize(s.Blobs[0].Layer.Size))
			_, _ = s.Blobs[0].ReadAt(b, 0)
			b[1024+5] ^= 1
			s.Blobs[0].ReaderAt = bytes.NewReader(b)
		},
	} {
		a, b := sideOf(t, "A", true, base), sideOf(t, "B", true, other)
		damage(&b)
		_, err := Compare(t.Context(), a, b, Options{})
		if err == nil || !strings.Contains(err.Error(), "B: layer 1, "+string(b.Image.Layers[0].DiffID)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
