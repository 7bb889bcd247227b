package erofs_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/erofs/erofstest"
)

type member struct {
	tar.Header
	content string
}

func openLayer(t testing.TB, o erofs.Options, members ...member) *erofs.FS {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		m.Size, m.ModTime, m.Mode = int64(len(m.content)), time.Unix(1700000000, 0), 0o755
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, m.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := erofs.Open(bytes.NewReader(convert(t, &b, o)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func file(name, content string) member { return member{tar.Header{Name: name}, content} }
func dir(name string) member           { return member{tar.Header{Name: name, Typeflag: tar.TypeDir}, ""} }
func symlink(name, target string) member {
	return member{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}, ""}
}

var _ interface {
	fs.StatFS
	fs.ReadDirFS
	fs.ReadFileFS
	fs.ReadLinkFS
} = (*erofs.FS)(nil)

var _ interface {
	fs.StatFS
	fs.ReadDirFS
	fs.ReadLinkFS
} = (*erofs.OverlayFS)(nil)

func TestFSConforms(t *testing.T) {
	for _, c := range []erofs.Compression{erofs.None, erofs.LZ4, erofs.Zstd} {
		f := openLayer(
			t,
			erofs.Options{Compression: c},
			dir(
				"etc",
			),
			file("etc/hosts", "127.0.0.1 localhost\n"),
			file("etc/passwd", strings.Repeat("root:x:0:0\n", 30)),
			file("usr/lib/big", strings.Repeat("0123456789abcdef", 7000)),
			symlink("lib", "usr/lib"),
		)
		if err := fstest.TestFS(f, "etc/hosts", "etc/passwd", "usr/lib/big", "lib"); err != nil {
			t.Errorf("%s: %v", c, err)
		}
		if err := fstest.TestFS(erofs.Overlay(f), "etc/hosts", "usr/lib/big", "lib"); err != nil {
			t.Errorf("%s, in an overlay: %v", c, err)
		}
	}
}

func TestSymbolicLinksStayInside(t *testing.T) {
	f := openLayer(t, erofs.Options{},
		file("etc/os-release", "ID=test"), symlink("abs", "/etc/os-release"), symlink("up", "../../../etc/os-release"),
		dir("a/b"), symlink("a/b/rel", "../../etc"), symlink("loop", "loop"), symlink("dangling", "nowhere"),
		symlink("through", "etc/os-release/x"))
	for _, fsys := range []fs.FS{f, erofs.Overlay(f), erofs.Overlay(openLayer(t, erofs.Options{}), f)} {
		for _, name := range []string{"abs", "up", "a/b/rel/os-release"} {
			b, err := fs.ReadFile(fsys, name)
			if err != nil || string(b) != "ID=test" {
				t.Errorf("%s: %q, %v", name, b, err)
			}
			if i, err := fs.Stat(fsys, name); err != nil || !i.Mode().IsRegular() {
				t.Errorf("%s: %v, %v", name, i, err)
			}
		}
		for name, want := range map[string]error{
			"dangling": fs.ErrNotExist, "loop": nil, "through": nil, "../etc": fs.ErrInvalid, "/etc": fs.ErrInvalid,
			"": fs.ErrInvalid, "etc/": fs.ErrInvalid,
		} {
			if _, err := fsys.Open(name); err == nil || want != nil && !errors.Is(err, want) {
				t.Errorf("open %q: error %v, want %v", name, err, want)
			}
		}
		if i, err := fs.Lstat(fsys, "dangling"); err != nil || i.Mode()&fs.ModeSymlink == 0 {
			t.Errorf("lstat: %v, %v", i, err)
		}
		if got, err := fs.ReadLink(fsys, "up"); err != nil || got != "../../../etc/os-release" {
			t.Errorf("readlink: %q, %v", got, err)
		}
		if _, err := fs.ReadLink(fsys, "etc"); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("readlink of a folder: %v", err)
		}
	}
}

func TestOverlayMergesAsOverlayfsDoes(t *testing.T) {
	o := erofs.Options{Compression: erofs.Zstd}
	merged := erofs.Overlay(
		openLayer(
			t,
			o,
			file("both", "low"),
			file("low", "low"),
			file("gone", "low"),
			file("dir/low", "low"),
			file("dir/both", "low"),
			file(
				"opaque/low",
				"low",
			),
			file("was dir/low", "low"),
			file("was file", "low"),
			symlink("lib", "usr/lib"),
			file("usr/lib/low", "low"),
			file("removed/deep/low", "low"),
			file("again", "low"),
		),
		openLayer(
			t,
			o,
			file(".wh.gone", ""),
			file("both", "middle"),
			file("dir/.wh.low", ""),
			file("dir/middle", "middle"),
			file(".wh.again", ""),
			file(".wh.removed", ""),
		),
		openLayer(
			t,
			o,
			file("both", "high"),
			file("opaque/.wh..wh..opq", ""),
			file("opaque/high", "high"),
			file("was dir", "high"),
			file(
				"was file/high",
				"high",
			),
			file("usr/lib/high", "high"),
			file("again", "high"),
			file("removed/high", "high"),
		),
	)
	files, err := erofstest.Walk(merged)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range files {
		if f.Mode&0o170000 != 0o100000 {
			continue
		}
		b, err := fs.ReadFile(merged, f.Name)
		if err != nil {
			t.Error(err)
		}
		got[f.Name] = string(b)
	}
	want := map[string]string{
		"both": "high", "low": "low", "dir/both": "low", "dir/middle": "middle", "opaque/high": "high",
		"was dir": "high", "was file/high": "high",
		"usr/lib/low": "low", "usr/lib/high": "high", "again": "high", "removed/high": "high",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	for _, name := range []string{"gone", "dir/low", "opaque/low", "was dir/low", "removed/deep", "removed/deep/low"} {
		if _, err := fs.Stat(merged, name); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range []string{"lib/low", "lib/high"} {
		if _, err := fs.Stat(merged, name); err != nil {
			t.Error(err)
		}
	}
}
