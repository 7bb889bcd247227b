package exporter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
)

func text(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s), Mode: 0o644} }

// bootFiles are the files of a boot layer for a tree.
func bootFiles(t testing.TB, tree fs.FS, o boot.Options) fstest.MapFS {
	t.Helper()
	made, err := boot.Make(tree, o)
	if err != nil {
		t.Fatal(err)
	}
	m := fstest.MapFS{
		layout.ImageKernel:       boottest.Link(filepath.Base(made.KernelPath)),
		layout.ImageInitrd:       text(string(made.Initrd)),
		layout.ImageUKI:          text(string(made.UKI)),
		layout.ImageBootManifest: text(string(made.Manifest.Marshal())),
		layout.ImageSystemdBoot:  text(string(boottest.Program("systemd-boot"))),
		layout.ImageRelease:      text("KAIROS_ID=\"kairos\"\nKAIROS_VERSION=\"v1.2.3\"\n"),
	}
	for name, size := range map[string]int{
		"boot.img":        512,
		"boot_hybrid.img": 512,
		"core.img":        100_000,
		"eltorito.img":    100_000,
	} {
		m[layout.ImageGrubDir+"/"+name] = text(strings.Repeat("g", size))
	}
	return m
}

// layerOf packs a tree as a layer and counts how often it is opened.
type testLayer struct {
	image.Layer
	opened int
}

func layerOf(t testing.TB, tree fstest.MapFS) *testLayer {
	t.Helper()
	return layerOfTree(t, tree, true)
}

// layerOfTree packs a tree, with the folders above its files or without.
func layerOfTree(t testing.TB, tree fstest.MapFS, folders bool) *testLayer {
	t.Helper()
	if folders {
		tree = boottest.WithFolders(tree)
	}
	b := boottest.Tar(t, tree)
	sum := sha256.Sum256(b)
	l := &testLayer{
		Layer: image.Layer{DiffID: layout.Digest("sha256:" + hex.EncodeToString(sum[:])), Size: int64(len(b))},
	}
	l.Open = func(context.Context) (io.ReadCloser, error) {
		l.opened++
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return l
}

// imageOf makes an image of layers.
func imageOf(t testing.TB, labels map[string]string, layers ...*testLayer) image.Image {
	t.Helper()
	created := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	img := image.Image{Ref: "example.test/os:v1"}
	img.Config.Created, img.Config.OS, img.Config.Architecture = &created, "linux", "amd64"
	img.Config.Config.Labels = labels
	img.Config.RootFS.Type = "layers"
	for _, l := range layers {
		img.Layers = append(img.Layers, l.Layer)
		img.Config.RootFS.DiffIDs = append(img.Config.RootFS.DiffIDs, digest.Digest(l.DiffID))
	}
	b, err := json.Marshal(img.Config)
	if err != nil {
		t.Fatal(err)
	}
	img.ConfigDigest = layout.Digest(digest.FromBytes(b))
	return img
}

const kernel = "6.12.1-amd64"

// bootable is an image as the frontend makes it: base, a layer of the user's, boot layer.
func bootable(t testing.TB) (base, user, bootLayer *testLayer) {
	t.Helper()
	tree := boottest.Tree(kernel)
	return layerOf(
			t,
			tree,
		), layerOf(
			t,
			fstest.MapFS{"etc/motd": text("hello\n")},
		), layerOf(
			t,
			bootFiles(t, tree, boot.Options{}),
		)
}

func export(t testing.TB, img image.Image, f Format, o Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Export(t.Context(), &b, img, f, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// mediumFiles reads the files of an ISO with a foreign program.
func mediumFiles(t testing.TB, iso []byte) map[string]string {
	t.Helper()
	name, dir := filepath.Join(t.TempDir(), "os.iso"), t.TempDir()
	if err := os.WriteFile(name, iso, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("xorriso", "-osirrox", "on", "-indev", name, "-extract", "/",
		dir).CombinedOutput(); err != nil {
		t.Fatalf("xorriso: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("chmod", "-R", "u+w", dir).Run() })
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, p))
		files[p] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestISOHoldsTheRelease(t *testing.T) {
	base, user, bootLayer := bootable(t)
	img := imageOf(t, nil, base, user, bootLayer)
	files := mediumFiles(t, export(t, img, FormatISO, Options{CloudConfig: []byte("#cloud-config\n")}))
	release, err := layout.ParseRelease(
		[]byte(files["kairos/"+layout.ReleasePath(layout.ReleaseID(img.ConfigDigest))]),
	)
	if err != nil {
		t.Fatal(err)
	}
	if release.Version != "v1.2.3" || release.Arch != "amd64" || release.Config != img.ConfigDigest ||
		len(release.Layers) != 3 {
		t.Errorf("release %+v", release)
	}
	for i, l := range release.Layers {
		if l.DiffID != img.Layers[i].DiffID {
			t.Errorf("layer %d is %s, want %s", i, l.DiffID, img.Layers[i].DiffID)
		}
		s, err := layout.ParseSidecar([]byte(files["kairos/"+layout.SidecarPath(l.DiffID)]))
		if err != nil || s.RootHash != l.RootHash || s.HashOffset != l.Size {
			t.Errorf("sidecar %+v, %v; want %+v", s, err, l)
		}
		if blob := files["kairos/"+layout.BlobPath(l.DiffID)]; int64(len(blob)) <= l.Size {
			t.Errorf("blob %s has %d bytes, its data alone are %d", l.DiffID, len(blob), l.Size)
		}
	}
	if files[layout.LiveCloudConfig] != "#cloud-config\n" {
		t.Errorf("cloud-config %q", files[layout.LiveCloudConfig])
	}
	if files["boot/vmlinuz"] != string(boottest.Kernel(kernel)) || files["boot/initrd"] == "" ||
		!strings.Contains(files["boot/grub/grub.cfg"], "'panic=10'") {
		t.Errorf("GRUB has no kernel: %q", files["boot/grub/grub.cfg"])
	}
}

func TestEqualImagesGiveEqualMedia(t *testing.T) {
	base, user, bootLayer := bootable(t)
	img := imageOf(t, nil, base, user, bootLayer)
	again := img
	again.Ref = "another.test/name:v2"
	for f, compress := range map[Format]string{FormatISO: "", FormatQCOW2: "", FormatRaw: CompressZstd} {
		one := export(t, img, f, Options{Cache: t.TempDir(), Compress: compress})
		if two := export(t, again, f, Options{Cache: t.TempDir(), Compress: compress}); !bytes.Equal(one, two) {
			t.Errorf("%s: two exports of one image differ", f)
		}
		if len(one) > 64<<20 {
			t.Errorf("%s: %d bytes for a system of some kilobytes", f, len(one))
		}
	}
}

// After a change in one layer the others are neither read nor converted.
func TestOnlyChangedLayersAreRead(t *testing.T) {
	cache := t.TempDir()
	base, user, bootLayer := bootable(t)
	labels := map[string]string{layout.ImageLabelFormat: "zstd-0-v2"}
	export(t, imageOf(t, labels, base, user, bootLayer), FormatISO, Options{Cache: cache})
	user2 := layerOf(t, fstest.MapFS{"etc/motd": text("hello again\n")})
	var steps []string
	var counted int64
	export(t, imageOf(t, labels, base, user2, bootLayer), FormatISO, Options{
		Cache: cache,
		Progress: func(step string) func(error) error {
			steps = append(steps, step)
			return func(err error) error { return err }
		},
		Bytes: func(_ string, done, _ int64) { counted = done },
	})
	if base.opened != 1 || bootLayer.opened != 1 || user2.opened != 1 {
		t.Errorf(
			"opened: base %d, boot layer %d, changed layer %d; want each once",
			base.opened,
			bootLayer.opened,
			user2.opened,
		)
	}
	want := []string{
		"cached layer 1 of 3 " + string(base.DiffID),
		"converting layer 2 of 3 " + string(user2.DiffID),
		"cached layer 3 of 3 " + string(bootLayer.DiffID),
		"writing ISO",
	}
	if !slices.Equal(steps, want) || counted == 0 {
		t.Errorf("steps %q (%d bytes), want %q", steps, counted, want)
	}
}

// An image derived by a plain Dockerfile with another kernel boots that one.
func TestBootFilesFollowTheKernel(t *testing.T) {
	base, user, bootLayer := bootable(t)
	newer := fstest.MapFS{}
	boottest.AddKernel(newer, "6.12.9-amd64")
	var warnings []string
	o := Options{Warn: func(s string) { warnings = append(warnings, s) }}
	files := mediumFiles(t, export(t, imageOf(t, nil, base, bootLayer, user, layerOf(t, newer)), FormatISO, o))
	if files["boot/vmlinuz"] != string(boottest.Kernel("6.12.9-amd64")) {
		t.Error("the medium has the old kernel")
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "6.12.9-amd64") {
		t.Errorf("warnings %q", warnings)
	}
	warnings = nil
	export(t, imageOf(t, nil, base, user, bootLayer), FormatISO, o)
	if len(warnings) != 0 {
		t.Errorf("warnings about boot files that fit: %q", warnings)
	}
}

// An image with a kernel and without a boot layer gets one, and with it another identity.
func TestBootLayerIsAdded(t *testing.T) {
	tree := boottest.Tree(kernel)
	delete(tree, layout.ImageInit)
	delete(tree, layout.ImageStub)
	img := imageOf(t, nil, layerOf(t, tree))
	o := Options{BootLayers: func(root fs.FS, config ocispec.Image) ([][]byte, error) {
		if _, err := fs.Stat(root, "boot/vmlinuz-"+kernel); err != nil || config.Architecture != "amd64" {
			t.Errorf("%v, architecture %s", err, config.Architecture)
		}
		full := boottest.Tree(kernel)
		files := bootFiles(t, full, boot.Options{})
		files[layout.ImageInit], files[layout.ImageStub] = full[layout.ImageInit], full[layout.ImageStub]
		top := fstest.MapFS{layout.ImageRelease: text("KAIROS_VERSION=v1\n")}
		return [][]byte{
			boottest.Tar(t, boottest.WithFolders(files)), boottest.Tar(t, boottest.WithFolders(top)),
		}, nil
	}}
	files := mediumFiles(t, export(t, img, FormatISO, o))
	if _, ok := files["kairos/"+layout.ReleasePath(layout.ReleaseID(img.ConfigDigest))]; ok {
		t.Error("the image with a boot layer has the identity of the one without")
	}
	releases := 0
	for name, data := range files {
		if strings.HasPrefix(name, "kairos/releases/") {
			releases++
			if r, err := layout.ParseRelease([]byte(data)); err != nil || len(r.Layers) != 3 || r.Version != "v1" {
				t.Errorf("release with %d layers, %v", len(r.Layers), err)
			}
		}
	}
	if releases != 1 {
		t.Errorf("%d releases", releases)
	}
}

// Machines without BIOS get no GRUB, on no medium.
func TestArm64(t *testing.T) {
	tree := boottest.Tree(kernel)
	for _, name := range []string{layout.ImageStub, "boot/vmlinuz-" + kernel} {
		le := binary.LittleEndian
		le.PutUint16(tree[name].Data[le.Uint32(tree[name].Data[0x3c:])+4:], 0xaa64)
	}
	files := bootFiles(t, tree, boot.Options{})
	img := imageOf(t, nil, layerOf(t, tree), layerOf(t, files))
	if disk := export(t, img, FormatQCOW2, Options{}); !bytes.Contains(disk, []byte("GRUBEN~1")) {
		t.Error("no grubenv on a disk for amd64: this test looks for the wrong name")
	}
	img.Config.Architecture = "arm64"
	iso := export(t, img, FormatISO, Options{})
	for name := range mediumFiles(t, iso) {
		if strings.HasPrefix(name, "boot/") {
			t.Errorf("%s on a medium for arm64", name)
		}
	}
	if !bytes.Contains(iso, []byte("BOOTAA64EFI")) {
		t.Error("no BOOTAA64.EFI")
	}
	if disk := export(t, img, FormatQCOW2, Options{}); bytes.Contains(disk, []byte("GRUBEN~1")) {
		t.Error("GRUB on a disk for arm64")
	}
}

func TestSameLayerTwice(t *testing.T) {
	base, user, bootLayer := bootable(t)
	files := mediumFiles(t, export(t, imageOf(t, nil, base, user, user, bootLayer), FormatISO, Options{}))
	if files["kairos/"+layout.BlobPath(user.DiffID)] == "" {
		t.Error("the layer is missing")
	}
}

func TestImagesThatAreRefused(t *testing.T) {
	base, user, bootLayer := bootable(t)
	good := func() image.Image { return imageOf(t, nil, base, user, bootLayer) }
	damaged := layerOf(t, boottest.Tree(kernel))
	damaged.DiffID = layout.Digest("sha256:" + strings.Repeat("0", 64))
	noKernel := boottest.Tree(kernel)
	delete(noKernel, "boot/vmlinuz-"+kernel)
	old := boottest.Tree(kernel)
	old["boot/config-"+kernel] = text("CONFIG_EROFS_FS=m\nCONFIG_EROFS_FS_ZIP=y\n")
	bare := boottest.Tree(kernel)
	delete(bare, layout.ImageInit)

	for name, c := range map[string]struct {
		image  image.Image
		format Format
		o      Options
		want   string
	}{
		"wrong digest":  {image: imageOf(t, nil, damaged), want: "changed or damaged on its way"},
		"no kernel":     {image: imageOf(t, nil, layerOf(t, noKernel)), want: "the image has no kernel"},
		"no boot layer": {image: imageOf(t, nil, layerOf(t, bare)), want: "# syntax=kairos"},
		"no layers":     {image: imageOf(t, nil), want: "no layers"},
		"config of another": {image: func() image.Image { i := good(); i.Layers = i.Layers[1:]; return i }(),
			want: "damaged"},
		"layers in disorder": {image: func() image.Image { i := good(); slices.Reverse(i.Layers); return i }(),
			want: "damaged"},
		"windows": {image: func() image.Image { i := good(); i.Config.OS = "windows"; return i }(),
			want: "only linux"},
		"architecture": {image: func() image.Image { i := good(); i.Config.Architecture = "s390x"; return i }(),
			want: "amd64 and arm64"},
		"unknown compression": {image: imageOf(t, map[string]string{layout.ImageLabelCompression: "xz"}, base,
			bootLayer), want: "want zstd, lz4 or none"},
		"kernel too old": {image: imageOf(t, map[string]string{layout.ImageLabelCompression: "zstd"},
			layerOf(t, old), bootLayer), want: "reads lz4 at most"},
		"unknown format": {image: good(), format: "vmdk", want: "use iso, raw or qcow2"},
		"small disk":     {image: good(), format: FormatRaw, o: Options{Size: 100 << 20}, want: "or more"},
		"size of an ISO": {image: good(), o: Options{Size: 1 << 30}, want: "for disks"},
		"compressed qcow2": {image: good(), format: FormatQCOW2, o: Options{Compress: CompressZstd},
			want: "raw disks"},
		"unknown compress": {image: good(), format: FormatRaw, o: Options{Compress: "gzip"}, want: "use zstd"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.format == "" {
				c.format = FormatISO
			}
			var b bytes.Buffer
			err := Export(t.Context(), &b, c.image, c.format, c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if b.Len() > 0 {
				t.Errorf("%d bytes were written before the error", b.Len())
			}
		})
	}
}

// The compression is what the image's kernel reads. It is guessed wrongly once at most.
func TestCompressionFollowsTheKernel(t *testing.T) {
	tree := boottest.Tree(kernel)
	tree["boot/config-"+kernel] = text("CONFIG_EROFS_FS=m\nCONFIG_EROFS_FS_ZIP=y\n")
	base, bootLayer := layerOf(t, tree), layerOf(t, bootFiles(t, tree, boot.Options{}))
	o := Options{Cache: t.TempDir()}
	export(t, imageOf(t, nil, base, bootLayer), FormatISO, o)
	if stores, err := filepath.Glob(filepath.Join(o.Cache, "lz4-*")); err != nil || len(stores) != 1 {
		t.Errorf("stores %v, %v", stores, err)
	}
	if stores, _ := filepath.Glob(filepath.Join(o.Cache, "zstd-*")); len(stores) != 0 {
		t.Errorf("layers were converted for another kernel first: %v", stores)
	}
	late := layerOf(t, fstest.MapFS{"etc/motd": text("hello\n")})
	export(t, imageOf(t, nil, base, bootLayer, late), FormatISO, o)
	if late.opened != 1 {
		t.Errorf("a changed layer was converted %d times", late.opened)
	}
}
