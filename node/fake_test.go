package node

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/internal/tpm"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/store"
)

const idA = "aaaaaaaaaaaa"

// The fake machine's partitions are folders below one root.
const (
	stateDir    = "state"
	recoveryDir = "recovery"
	espDir      = "efi"
	oemDir      = "oem"
)

// fakeMachine is a machine whose disk is a folder.
func fakeMachine(t testing.TB, disk string, firmware, booted, cache string, d *durable.FS) *Machine {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	return &Machine{
		Boot: layout.Boot{Release: booted, Role: layout.RoleSystem, Firmware: firmware}, Root: root, FS: d,
		State: store.NewOn(
			filepath.Join(disk, stateDir),
			d,
		), Recovery: store.NewOn(filepath.Join(disk, recoveryDir), d),
		ESP:   fakeESP(disk, firmware, d),
		OEM:   filepath.Join(disk, oemDir),
		Cache: cache, bootFiles: fakeBootFiles, openTPM: tpm.Open, freeBytes: store.Free,
	}
}

// bless is what `kairos-apply bless` does.
func bless(ctx context.Context, m *Machine) (api.Assessment, error) {
	return m.Bless(Assess(ctx, m.Root, m.Boot, false))
}

// fakeESP is an ESP that is a directory.
func fakeESP(disk, firmware string, d *durable.FS) *loader.ESP {
	dir := filepath.Join(disk, espDir)
	return newESP(dir, firmware, d, dirNames(dir), efivars.Dir(filepath.Join(disk, "efivars")))
}

// dirNames changes names as FAT's editor does it: it refuses what cannot be one write of a sector there.
type dirNames string

func (root dirNames) path(dir, name string) string { return filepath.Join(string(root), dir, name) }

func (root dirNames) Rename(dir, from, to string) error {
	same := 0
	for same < min(len(from), len(to)) && from[same] == to[same] {
		same++
	}
	if last := max(len(from), len(to)) - 1; same/13 != last/13 {
		return fmt.Errorf("rename %s to %s: the names differ in more than one place", from, to)
	}
	if _, err := os.Stat(root.path(dir, to)); err == nil {
		return fmt.Errorf("rename %s to %s: the name exists", from, to)
	}
	return os.Rename(root.path(dir, from), root.path(dir, to))
}

func (root dirNames) Exchange(dir, a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, root.path(dir, a), unix.AT_FDCWD, root.path(dir, b), unix.RENAME_EXCHANGE)
}

func (root dirNames) Remove(dir, name string) error { return os.RemoveAll(root.path(dir, name)) }

func (dirNames) Reclaim() error { return nil }

// fakeBootFiles are boot files that differ from release to release.
func fakeBootFiles(_ *store.Store, r layout.Release, _ Progress) (loader.BootFiles, bootFacts, error) {
	return loader.BootFiles{
		UKI: []byte("UKI of " + r.ID()), Kernel: []byte("kernel of " + r.ID()), Initrd: []byte("initrd of " + r.ID()),
		Cmdline: "console=ttyS0 release=" + r.ID(),
	}, bootFacts{uki: layout.Digest(digest.FromString("UKI of " + r.ID()))}, nil
}

// testImage is an image in an OCI layout.
type testImage struct {
	dir    string
	id     string // of the release
	layers [][]byte
	ref    source.Ref // where it is; zero: dir
}

func (i testImage) source() source.Ref {
	if i.ref != (source.Ref{}) {
		return i.ref
	}
	return source.Ref{Kind: source.OCILayout, Name: i.dir}
}

// tarOf makes a layer.
func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(files[name]))
	}
	w.Close()
	return b.Bytes()
}

// bootLayer is what all test images have in common.
func bootLayer(t testing.TB, loader string) []byte {
	return tarOf(t, map[string]string{
		layout.ImageSystemdBoot: loader, layout.ImageStub: "stub", layout.ImageGrubDir + "/core.img": "core",
		layout.ImageRelease: "KAIROS_VERSION=v1\n",
	})
}

// newImage makes an image of layers in an OCI layout.
func newImage(t testing.TB, arch string, layers ...[]byte) testImage {
	t.Helper()
	return newImageIn(t, "none", arch, layers...)
}

// newImageIn is newImage with a compression for its blobs.
func newImageIn(t testing.TB, compression, arch string, layers ...[]byte) testImage {
	t.Helper()
	return labelledImage(t, map[string]string{layout.ImageLabelCompression: compression}, arch, layers...)
}

// labelledImage is newImage with labels.
func labelledImage(t testing.TB, labels map[string]string, arch string, layers ...[]byte) testImage {
	t.Helper()
	img := testImage{dir: t.TempDir(), layers: layers}
	put := func(b []byte) ocispec.Descriptor {
		d := digest.FromBytes(b)
		path := filepath.Join(img.dir, "blobs", "sha256", d.Encoded())
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return ocispec.Descriptor{Digest: d, Size: int64(len(b))}
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
	config.Config.Labels = map[string]string{layout.ImageLabelVersion: "v1", layout.ImageLabelCompression: "none"}
	maps.Copy(config.Config.Labels, labels)
	config.RootFS.Type = "layers"
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
	}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		w.Write(l)
		w.Close()
		d := put(z.Bytes())
		d.MediaType = ocispec.MediaTypeImageLayerGzip
		manifest.Layers = append(manifest.Layers, d)
	}
	c, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	manifest.Config = put(c)
	manifest.Config.MediaType = ocispec.MediaTypeImageConfig
	img.id = layout.ReleaseID(layout.Digest(manifest.Config.Digest))
	m, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	top := put(m)
	top.MediaType = ocispec.MediaTypeImageManifest
	index, err := json.Marshal(
		ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{top}},
	)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"index.json": index,
		"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`),
	} {
		if err := os.WriteFile(filepath.Join(img.dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// threeImages share a base layer; the third has another boot loader.
func threeImages(t testing.TB) (a, b, c testImage) {
	base := tarOf(t, map[string]string{"etc/base": strings.Repeat("base", 3000)})
	image := func(name, loader string) testImage {
		return newImage(
			t,
			runtime.GOARCH,
			base,
			tarOf(t, map[string]string{"etc/app": strings.Repeat(name, 2000)}),
			bootLayer(t, loader),
		)
	}
	return image("a", "loader 1"), image("b", "loader 1"), image("c", "loader 2")
}

// install makes a fake disk with an image as active and recovery system.
func install(t testing.TB, disk, firmware, cache string, img testImage) *Machine {
	t.Helper()
	m := fakeMachine(t, disk, firmware, img.id, cache, nil)
	for _, d := range []string{stateDir, recoveryDir, espDir, oemDir} {
		if err := os.MkdirAll(filepath.Join(disk, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, recovery := range []bool{false, true} {
		if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: img.source(), Recovery: recovery}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Bless(Verdict{}); err != nil {
		t.Fatal(err)
	}
	return m
}

// bootable says what a disk boots: each release that the loader would start, in its order,
// each of them verified to the last byte. It stands for firmware, loader and /init.
func bootable(disk, firmware string) ([]layout.Entry, error) { return bootableBut(disk, firmware, nil) }

// bootableBut is bootable of a disk on which some entries may be damaged: those that hurt names.
func bootableBut(disk, firmware string, hurt func(layout.Entry) bool) ([]layout.Entry, error) {
	esp := fakeESP(disk, firmware, nil)
	if _, err := esp.Decides.Entries(esp.Volume); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(filepath.Join(disk, espDir, "EFI/BOOT/BOOTX64.EFI"))
	if err != nil || !strings.HasPrefix(string(program), "loader ") || len(program) != len("loader 1") {
		return nil, fmt.Errorf("boot loader %q: %v", program, err)
	}
	slots, err := esp.State()
	if err != nil {
		return nil, err
	}
	var good []layout.Entry
	for _, e := range slots.All() {
		if e.Bad() {
			continue
		}
		if err := entryBoots(disk, firmware, e); err != nil {
			if hurt != nil && hurt(e) {
				continue
			}
			return nil, fmt.Errorf("entry %s: %w", e, err)
		}
		good = append(good, e)
	}
	return good, nil
}

// entryBoots says why an entry does not boot.
func entryBoots(disk, firmware string, e layout.Entry) error {
	s := store.New(filepath.Join(disk, stateDir))
	if e.Seq == layout.RecoverySeq {
		s = store.New(filepath.Join(disk, recoveryDir))
	}
	if err := s.VerifyRelease(e.ID); err != nil {
		return err
	}
	want, _, _ := fakeBootFiles(
		nil,
		layout.Release{Config: layout.Digest("sha256:" + e.ID + strings.Repeat("0", 52))},
		nil,
	)
	dir := filepath.Join(disk, espDir, layout.GrubKernelDir, e.ID)
	files := map[string][]byte{
		filepath.Join(dir, "vmlinuz"):   want.Kernel,
		filepath.Join(dir, "initrd"):    want.Initrd,
		filepath.Join(dir, "entry.cfg"): layout.GrubEntry(want.Cmdline, want.Name),
	}
	if firmware != layout.FirmwareBIOS {
		files = map[string][]byte{filepath.Join(disk, espDir, layout.UKIDir, e.String()): want.UKI}
	}
	for name, content := range files {
		if have, err := os.ReadFile(name); err != nil || !bytes.Equal(have, content) {
			return fmt.Errorf(
				"%s has %d bytes instead of %d (%v)",
				name,
				len(have),
				len(content),
				err,
			)
		}
	}
	return nil
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
