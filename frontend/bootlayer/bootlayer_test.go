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

	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/units"
)

func sample() *Layer {
	return &Layer{Files: []File{
		{Path: "boot/initrd", Mode: 0o644, Data: []byte("initrd")},
		{Path: "boot/vmlinuz", Mode: fs.ModeSymlink | 0o777, Link: "vmlinuz-6.12"},
		{Path: "etc/empty", Mode: fs.ModeDir | 0o700},
		{Path: "etc/kairos-release", Mode: 0o644, Data: []byte("KAIROS_ID=kairos\n")},
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
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
			t.Errorf(
				"%s: %v %v, in the tar %v %v",
				h.Name,
				info.Mode(),
				info.ModTime(),
				h.FileInfo().Mode(),
				h.ModTime,
			)
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
			[]string{`KAIROS_FLAVOR="debian"`, `KAIROS_FLAVOR_RELEASE="13"`, `KAIROS_FAMILY="debian"`,
				`KAIROS_VERSION="v1.2.3"`,
				`KAIROS_NAME="kairos-core-debian-13"`, `KAIROS_IMAGE_LABEL="13-core-amd64-generic-v1.2.3"`},
		},
		"ubuntu with OCI's label": {
			"ID=ubuntu\nID_LIKE=debian\nVERSION_ID='24.04'\n",
			map[string]string{"org.opencontainers.image.version": "v9"},
			[]string{
				`KAIROS_FLAVOR="ubuntu"`, `KAIROS_FLAVOR_RELEASE="24.04"`, `KAIROS_FAMILY="debian"`,
				`KAIROS_VERSION="v9"`,
			},
		},
		"a derivative": {"ID=oracle\nID_LIKE=\"fedora\"\nVERSION_ID=9.4\n", nil,
			[]string{`KAIROS_FAMILY="redhat"`, `KAIROS_VERSION="v0.0.0"`}},
		"no version": {"ID=arch\n", nil, []string{`KAIROS_FLAVOR_RELEASE="rolling"`, `KAIROS_FAMILY="arch"`}},
		"shell":      {"ID=\"a\\$b\\\"c\"\n", nil, []string{`KAIROS_FLAVOR="a\$b\"c"`}},
	} {
		f, err := kairosRelease(
			fstest.MapFS{"usr/lib/os-release": {Data: []byte(c.osRelease)}},
			Options{Arch: "amd64", Labels: c.labels},
		)
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
	// The administrator's file counts, as os-release(5) has it.
	f, err := kairosRelease(fstest.MapFS{
		"usr/lib/os-release": {Data: []byte("ID=debian\n")}, "etc/os-release": {Data: []byte("ID=ubuntu\n")},
	}, Options{Arch: "amd64"})
	if err != nil || !strings.Contains(string(f.Data), "KAIROS_FLAVOR=\"ubuntu\"\n") {
		t.Errorf("two files: %v\n%s", err, f.Data)
	}
	for _, bad := range []string{"v1 2", "v1\n", "v\x1b[2J"} {
		_, err := kairosRelease(fstest.MapFS{}, Options{Labels: map[string]string{layout.ImageLabelVersion: bad}})
		if err == nil {
			t.Errorf("version %q accepted", bad)
		}
	}
}

func TestUnitsAreEnabledBelowUsr(t *testing.T) {
	got := installDirs(
		[]byte(
			"[Unit]\nWantedBy=no\n[Install]\nWantedBy=multi-user.target  " +
				"sysinit.target\nRequiredBy=boot-complete.target\nAlias=x\n",
		),
	)
	want := []string{"multi-user.target.wants", "sysinit.target.wants", "boot-complete.target.requires"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	files, err := unitFiles(fstest.MapFS{unitDir + "/x.service": {}})
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	hook := func(f File) bool { return f.Path == layout.ImageShutdownHook && f.Mode == 0o755 }
	if !slices.ContainsFunc(files, hook) {
		t.Errorf("nothing ejects a medium: %v", files)
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
	if files, err = unitFiles(root); err != nil ||
		slices.ContainsFunc(files, func(f File) bool { return f.Path == "etc/inittab" }) {
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
		layout.ImageInit: 0o755, layout.ImageApply: 0o755, layout.ImageStub: 0o644, layout.ImageGrubDir +
			"/core.img": 0o644,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// bootable is an image's tree, and the assets of a boot layer.
func bootable(t *testing.T) (root, carried fstest.MapFS) {
	t.Helper()
	root = boottest.Tree("6.12.9")
	carried = fstest.MapFS{
		"init": root[layout.ImageInit], "stub.efi": root[layout.ImageStub],
		"systemd-boot.efi": {Data: []byte("MZ")}, "kairos-apply": {Data: []byte("agent")},
	}
	delete(root, layout.ImageInit)
	delete(root, layout.ImageStub)
	return root, carried
}

func tarOf(t *testing.T, root fs.FS, o Options, make func(fs.FS, Options) (*Layer, error)) []byte {
	t.Helper()
	layer, err := make(root, o)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := layer.WriteTar(&b, root); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A version alone costs the layer that names it, and no other.
func TestVersionIsNotInTheBootLayer(t *testing.T) {
	root, carried := bootable(t)
	layers := func(version string, make func(fs.FS, Options) (*Layer, error)) []byte {
		return tarOf(
			t,
			root,
			Options{Arch: "amd64", Assets: carried, Labels: map[string]string{layout.ImageLabelVersion: version}},
			make,
		)
	}
	if !bytes.Equal(layers("v1", Make), layers("v2", Make)) {
		t.Error("the boot layer has the version")
	}
	one, two := layers("v1", MakeRelease), layers("v2", MakeRelease)
	if bytes.Equal(one, two) || len(two) > 8<<10 {
		t.Errorf("the release's layer has %d bytes", len(two))
	}
}

// The node's root is read-only: what it mounts on is in the image, where links lead, too.
func TestFoldersForMounts(t *testing.T) {
	dir := func(mode fs.FileMode) *fstest.MapFile { return &fstest.MapFile{Mode: fs.ModeDir | mode} }
	for name, c := range map[string]struct {
		has  fstest.MapFS
		want string // and not the others
		not  string
		err  string
	}{
		"nothing": {fstest.MapFS{}, "home oem opt root srv tmp usr/local", "", ""},
		"all": {fstest.MapFS{"home": dir(0o755), "oem": dir(0o755), "opt": dir(0o755), "root": dir(0o700),
			"srv": dir(0o755), "tmp": dir(0o777),
			"usr/local": dir(0o755)}, "", "home oem opt root srv tmp usr/local", ""},
		"ostree": {fstest.MapFS{
			"home": boottest.Link("var/home"), "usr/local": boottest.Link("../var/usrlocal"),
			"root": boottest.Link("/var/roothome"),
			"srv":  boottest.Link("var/srv"), "var/srv": dir(0o755), "opt": boottest.Link("../../var/lib/opt"),
		}, "oem tmp var/home var/lib/opt var/roothome var/usrlocal", "home opt root srv usr/local var/srv", ""},
		"two links": {fstest.MapFS{"home": boottest.Link("/data"), "opt": boottest.Link("/data")}, "data", "home opt",
			""},
		"loop": {fstest.MapFS{"home": boottest.Link("home")}, "", "",
			"/home in the image is a link that leads to itself"},
		"file": {fstest.MapFS{"opt": {}}, "", "", "/opt in the image is not a folder"},
	} {
		files, err := folders(c.has)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", name, err, c.err)
			continue
		}
		var got []string
		modes := map[string]fs.FileMode{}
		for _, f := range files {
			got = append(got, f.Path)
			modes[f.Path] = f.Mode
		}
		for _, w := range strings.Fields(c.want) {
			if !slices.Contains(got, w) {
				t.Errorf("%s: no %s in %v", name, w, got)
			}
		}
		for _, w := range strings.Fields(c.not) {
			if slices.Contains(got, w) {
				t.Errorf("%s: %s in %v", name, w, got)
			}
		}
		if m, ok := modes["root"]; ok && m != fs.ModeDir|0o700 {
			t.Errorf("%s: /root has the mode %v", name, m)
		}
	}
}

// An empty file that a build left where engines mount theirs does not become the node's.
func TestLeftoversOfABuildAreRemoved(t *testing.T) {
	root, carried := bootable(t)
	root["etc/resolv.conf"], root["etc/hostname"] = &fstest.MapFile{
		Mode: 0o644,
	}, &fstest.MapFile{
		Data: []byte("node\n"),
		Mode: 0o644,
	}
	layer, err := Make(root, Options{Arch: "amd64", Assets: carried})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := layer.WriteTar(&b, root); err != nil {
		t.Fatal(err)
	}
	whiteouts := map[string]bool{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		if strings.Contains(h.Name, ".wh.") {
			whiteouts[h.Name] = true
		}
	}
	if d := cmp.Diff(map[string]bool{"etc/.wh.resolv.conf": true}, whiteouts); d != "" {
		t.Error(d)
	}
	dir := image(t)
	if err := os.WriteFile(filepath.Join(dir, "etc/resolv.conf"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	on, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	if err := (&Layer{Files: leftovers(on.FS())}).Write(on); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "etc/resolv.conf")); !os.IsNotExist(err) {
		t.Error("the empty file is there")
	}
}

// What starts the node agent is said, and the line in an inittab is one that its init reads.
func TestStarters(t *testing.T) {
	for name, c := range map[string]struct {
		init  fstest.MapFS
		want  layout.Starter
		table string
	}{
		"systemd": {fstest.MapFS{
			"sbin/init":           boottest.Link("/lib/systemd/systemd"),
			"lib/systemd/systemd": {},
			unitDir:               {Mode: fs.ModeDir},
		}, layout.BySystemd, ""},
		"OpenRC": {fstest.MapFS{
			"sbin/init":         boottest.Link("/bin/busybox"),
			"bin/busybox":       {},
			"sbin/openrc":       {},
			layout.ImageInittab: {},
		}, layout.ByOpenRC, ""},
		"sysvinit": {fstest.MapFS{"sbin/init": {}, layout.ImageInittab: {}},
			layout.BySysV, "kair:2345:once:/etc/init.d/kairos start"},
		"BusyBox": {fstest.MapFS{
			"sbin/init":         boottest.Link("../bin/busybox"),
			"bin/busybox":       {},
			layout.ImageInittab: {},
		}, layout.ByBusyBox, "::once:/etc/init.d/kairos start"},
		"no inittab": {fstest.MapFS{"sbin/init": boottest.Link("../bin/busybox"), "bin/busybox": {}},
			layout.ByGuard, ""},
		"runit": {fstest.MapFS{"sbin/init": boottest.Link("/usr/bin/runit-init"), "usr/bin/runit-init": {}},
			layout.ByGuard, ""},
		"one's own": {fstest.MapFS{"sbin/init": {}}, layout.ByGuard, ""},
	} {
		if got := starter(c.init); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		files, err := unitFiles(c.init)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(files, func(f File) bool { return f.Path == layout.ImageInittab })
		if i < 0 != (c.table == "") || i >= 0 && string(files[i].Data) != "\n"+c.table+"\n" {
			t.Errorf("%s: %+v", name, files)
		}
	}
}

// A reader that walks down from the root finds the added files, whether it asks for a
// file or for the folders above it.
func TestAddedFilesAreFound(t *testing.T) {
	tree := with(
		fstest.MapFS{"usr/bin/sh": {Data: []byte("sh")}},
		[]File{{Path: "usr/lib/kairos/boot/init", Mode: 0o755, Data: []byte("init")}},
	)
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
