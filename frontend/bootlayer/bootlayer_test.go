package bootlayer

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/units"
)

func sample() *Layer {
	return &Layer{Files: []File{
		{Path: "boot/initrd", Mode: 0o644, Data: []byte("initrd")},
		{Path: "boot/vmlinuz", Mode: fs.ModeSymlink | 0o777, Link: "vmlinuz-6.12"},
		{Path: "etc/kairos-release", Mode: 0o644, Data: []byte("KAIROS_ID=kairos\n")},
		{Path: "usr/bin/kairos-apply", Mode: 0o755, Data: []byte("agent")},
	}}
}

// image is a root with what the layer finds there in practice.
func image(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"boot", "etc", "usr/bin"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func apply(t *testing.T, dir string) error {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	return sample().Write(root)
}

// The layer that the build step leaves in the image and the one that an export adds are one layer.
func TestWriteAndWriteTarAgree(t *testing.T) {
	dir := image(t)
	if err := apply(t, dir); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := sample().WriteTar(&b, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, h.Name)
		info, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != h.FileInfo().Mode() || !info.ModTime().Equal(h.ModTime) || !h.ModTime.Equal(Time) {
			t.Errorf("%s: %v %v, in the tar %v %v", h.Name, info.Mode(), info.ModTime(), h.FileInfo().Mode(), h.ModTime)
		}
		switch h.Typeflag {
		case tar.TypeSymlink:
			if got, _ := os.Readlink(name); got != h.Linkname {
				t.Errorf("%s -> %s, in the tar %s", h.Name, got, h.Linkname)
			}
		case tar.TypeReg:
			want, _ := io.ReadAll(r)
			if got, _ := os.ReadFile(name); !bytes.Equal(got, want) {
				t.Errorf("%s: %q, in the tar %q", h.Name, got, want)
			}
		}
	}
}

// A change elsewhere in the image must not reach the layer: no times of the image's are in it.
func TestTimesAreConstant(t *testing.T) {
	dir := image(t)
	for range 2 {
		if err := apply(t, dir); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"boot", "etc", "usr", "usr/bin", "boot/vmlinuz", "usr/bin/kairos-apply"} {
			info, err := os.Lstat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if !info.ModTime().Equal(Time) {
				t.Errorf("%s: time %v", name, info.ModTime())
			}
		}
		// As another RUN would.
		if err := os.Chtimes(filepath.Join(dir, "etc"), time.Now(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWriteDoesNotFollowLinks(t *testing.T) {
	dir, outside := image(t), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A file's place is taken by a link that leads out: the link is replaced.
	if err := os.Symlink(secret, filepath.Join(dir, "etc/kairos-release")); err != nil {
		t.Fatal(err)
	}
	if err := apply(t, dir); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(secret); string(b) != "mine" {
		t.Errorf("a file outside of the root was written: %q", b)
	}
	// A folder is a link that leads out: refused.
	if err := os.RemoveAll(filepath.Join(dir, "boot")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "boot")); err != nil {
		t.Fatal(err)
	}
	if err := apply(t, dir); err == nil {
		t.Error("wrote through a link that leads out of the root")
	}
	if names, _ := os.ReadDir(outside); len(names) != 1 {
		t.Errorf("outside of the root: %v", names)
	}
}

func TestRelative(t *testing.T) {
	for _, c := range [][3]string{
		{"boot/vmlinuz", "boot/vmlinuz-6.12", "vmlinuz-6.12"},
		{"boot/vmlinuz", "usr/lib/modules/6.12/vmlinuz", "../usr/lib/modules/6.12/vmlinuz"},
		{"a/b/c", "a/d", "../d"},
	} {
		if got := relative(c[0], c[1]); got != c[2] {
			t.Errorf("relative(%s, %s) = %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

func TestKairosRelease(t *testing.T) {
	for name, c := range map[string]struct {
		osRelease string
		labels    map[string]string
		want      []string
	}{
		"debian": {
			"ID=debian\nVERSION_ID=\"13\"\n", map[string]string{layout.ImageLabelVersion: "v1.2.3"},
			[]string{`KAIROS_FLAVOR="debian"`, `KAIROS_FLAVOR_RELEASE="13"`, `KAIROS_FAMILY="debian"`, `KAIROS_VERSION="v1.2.3"`,
				`KAIROS_NAME="kairos-core-debian-13"`, `KAIROS_IMAGE_LABEL="13-core-amd64-generic-v1.2.3"`},
		},
		"ubuntu with OCI's label": {
			"ID=ubuntu\nID_LIKE=debian\nVERSION_ID='24.04'\n", map[string]string{"org.opencontainers.image.version": "v9"},
			[]string{`KAIROS_FLAVOR="ubuntu"`, `KAIROS_FLAVOR_RELEASE="24.04"`, `KAIROS_FAMILY="debian"`, `KAIROS_VERSION="v9"`},
		},
		"a derivative": {"ID=oracle\nID_LIKE=\"fedora\"\nVERSION_ID=9.4\n", nil, []string{`KAIROS_FAMILY="redhat"`, `KAIROS_VERSION="v0.0.0"`}},
		"no version":   {"ID=arch\n", nil, []string{`KAIROS_FLAVOR_RELEASE="rolling"`, `KAIROS_FAMILY="arch"`}},
		"shell":        {"ID=\"a\\$b\\\"c\"\n", nil, []string{`KAIROS_FLAVOR="a\$b\"c"`}},
	} {
		f, err := kairosRelease(fstest.MapFS{"usr/lib/os-release": {Data: []byte(c.osRelease)}}, Options{Arch: "amd64", Labels: c.labels})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(string(f.Data), want+"\n") {
				t.Errorf("%s: no %s in\n%s", name, want, f.Data)
			}
		}
	}
	for _, bad := range []string{"v1 2", "v1\n", "v\x1b[2J"} {
		if _, err := kairosRelease(fstest.MapFS{}, Options{Labels: map[string]string{layout.ImageLabelVersion: bad}}); err == nil {
			t.Errorf("version %q accepted", bad)
		}
	}
}

func TestUnitsAreEnabledBelowUsr(t *testing.T) {
	got := installDirs([]byte("[Unit]\nWantedBy=no\n[Install]\nWantedBy=multi-user.target  sysinit.target\nRequiredBy=boot-complete.target\nAlias=x\n"))
	want := []string{"multi-user.target.wants", "sysinit.target.wants", "boot-complete.target.requires"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	files, err := unitFiles(fstest.MapFS{unitDir + "/x.service": {}})
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	if files, err := unitFiles(fstest.MapFS{}); err != nil || files != nil {
		t.Errorf("without systemd: %v, %v", files, err)
	}
}

// An image with sysvinit gets a line in its inittab, once.
func TestInittab(t *testing.T) {
	root := fstest.MapFS{"etc/inittab": {Data: []byte("id:2:initdefault:"), Mode: 0o644}}
	files, err := unitFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(files, func(f File) bool { return f.Path == "etc/inittab" })
	if i < 0 || string(files[i].Data) != "id:2:initdefault:\n"+units.SysV().Inittab+"\n" {
		t.Fatalf("files %+v", files)
	}
	root["etc/inittab"].Data = files[i].Data
	if files, err = unitFiles(root); err != nil || slices.ContainsFunc(files, func(f File) bool { return f.Path == "etc/inittab" }) {
		t.Errorf("a second time: %+v, %v", files, err)
	}
}

func TestAssetsFindTheirPlaces(t *testing.T) {
	files, err := assetFiles(fstest.MapFS{
		"init": {Data: []byte("i")}, "kairos-apply": {Data: []byte("a")}, "stub.efi": {}, "grub/core.img": {},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]fs.FileMode{}
	for _, f := range files {
		got[f.Path] = f.Mode
	}
	want := map[string]fs.FileMode{
		layout.ImageInit: 0o755, layout.ImageApply: 0o755, layout.ImageStub: 0o644, layout.ImageGrubDir + "/core.img": 0o644,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A reader that walks down from the root finds the added files, whether it asks for a
// file or for the folders above it.
func TestAddedFilesAreFound(t *testing.T) {
	tree := with(fstest.MapFS{"usr/bin/sh": {Data: []byte("sh")}}, []File{{Path: "usr/lib/kairos/boot/init", Mode: 0o755, Data: []byte("init")}})
	for _, dir := range []string{"usr", "usr/lib", "usr/lib/kairos", "usr/lib/kairos/boot"} {
		if info, err := fs.Lstat(tree, dir); err != nil || !info.IsDir() {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
	for name, want := range map[string]string{"usr/bin/sh": "sh", "usr/lib/kairos/boot/init": "init"} {
		if got, err := fs.ReadFile(tree, name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
