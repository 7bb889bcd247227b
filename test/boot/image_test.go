//go:build vm

package boot

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/kairos-buildkit/kairos/assets"
	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/sparse"
	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

const (
	arch       = "amd64"
	baseLayout = "../../build/base/debian-trixie"
)

var moment = time.Unix(1767225600, 0)

// image is a small image in a store of its own, with its boot files.
type image struct {
	dir        string // the store
	release    layout.Release
	files      *boot.Files
	content    string // what the layers' files say, in their order
	assets     fs.FS
	loader     []byte       // systemd-boot, where it is another one
	tree       fstest.MapFS // what the boot files are made from
	damaged    []string     // partitions whose release cannot be read
	portable   bool         // disks are raw images before their first boot
	sectorSize int64
}

// kernelTree has the base image's kernel, and what boot files are made from.
var kernelTree = sync.OnceValues(func() (fstest.MapFS, error) {
	index, err := ocilayout.ImageIndexFromPath(baseLayout)
	if err != nil {
		return nil, fmt.Errorf("%w: run `make base`", err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		return nil, err
	}
	r := mutate.Extract(img)
	defer r.Close()
	tree := fstest.MapFS{"sbin/init": {Mode: 0o755}}
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "var"} {
		tree[dir] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(h.Name, "./")
		if h.Typeflag != tar.TypeReg ||
			!strings.HasPrefix(name, "boot/") && !strings.HasPrefix(name, "usr/lib/modules/") {
			continue
		}
		b, err := io.ReadAll(t)
		if err != nil {
			return nil, err
		}
		tree[name] = &fstest.MapFile{Data: b, Mode: 0o644}
	}
	a, err := assets.FS(arch)
	if err != nil {
		return nil, err
	}
	for name, path := range map[string]string{"init": layout.ImageInit, "stub.efi": layout.ImageStub,
		"e2fsck": layout.ImageE2fsck} {
		b, err := fs.ReadFile(a, name)
		if err != nil {
			return nil, err
		}
		tree[path] = &fstest.MapFile{Data: b, Mode: 0o644}
	}
	return tree, nil
})

var probe = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-o", dir+"/probe", "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the probe: %w\n%s", err, out)
	}
	return os.ReadFile(dir + "/probe")
})

// makeImage makes an image with n layers. Each has a file /content/<number>, and hides the one of the layer
// three below it.
func makeImage(t *testing.T, n int, cmdline string) *image {
	t.Helper()
	return makeImageWith(t, n, cmdline, nil)
}

// makeImageWith is makeImage with programs in the lowest layer.
func makeImageWith(t *testing.T, n int, cmdline string, programs map[string][]byte) *image {
	t.Helper()
	ctx := context.Background()
	tree, err := kernelTree()
	if err != nil {
		t.Fatal(err)
	}
	init, err := probe()
	if err != nil {
		t.Fatal(err)
	}
	img := &image{dir: t.TempDir(), tree: maps.Clone(tree)}
	if img.assets, err = assets.FS(arch); err != nil {
		t.Fatal(err)
	}
	if img.files, err = boot.Make(tree, boot.Options{Cmdline: cmdline}); err != nil {
		t.Fatal(err)
	}
	s := store.New(img.dir)
	var config strings.Builder
	there := map[int]bool{}
	for i := range n {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if i == 0 {
			for _, dir := range []string{
				"content", "dev", "etc", "etc/ssh", "home", "oem", "opt", "proc", "root", "run", "sbin", "srv", "sys",
				"tmp", "usr", "usr/local", "usr/local/bin", "var", "var/lib",
			} {
				add(t, w, &tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
			}
			add(t, w, &tar.Header{Name: "sbin/init", Mode: 0o755}, init)
			for _, dir := range []string{"usr/lib", "usr/lib/kairos", layout.ImageBootDir} {
				add(t, w, &tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
			}
			add(t, w, &tar.Header{Name: layout.ImageE2fsck, Mode: 0o755}, tree[layout.ImageE2fsck].Data)
			for _, name := range slices.Sorted(maps.Keys(programs)) {
				add(t, w, &tar.Header{Name: name, Mode: 0o755}, programs[name])
			}
			add(t, w, &tar.Header{Name: "etc/ssh/image", Mode: 0o644}, []byte("image"))
			add(t, w, &tar.Header{Name: "usr/local/bin/image", Mode: 0o644}, []byte("image"))
		} else {
			add(t, w, &tar.Header{Typeflag: tar.TypeDir, Name: "content/", Mode: 0o755}, nil)
		}
		add(t, w, &tar.Header{Name: contentName(i), Mode: 0o644}, fmt.Appendf(nil, "%d ", i))
		there[i] = true
		if i >= 3 {
			add(t, w, &tar.Header{Name: "content/.wh." + filepath.Base(contentName(i-3)), Mode: 0o644}, nil)
			delete(there, i-3)
		}
		w.Close()
		l, err := s.AddLayer(ctx, sum(b.Bytes()), &b, erofs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		img.release.Layers = append(img.release.Layers, l)
		fmt.Fprintln(&config, l)
	}
	for i := range n {
		if there[i] {
			img.content += fmt.Sprintf("%d ", i)
		}
	}
	img.release.Version, img.release.Arch, img.release.Config = "test", arch, sum([]byte(config.String()))
	if err := s.AddRelease(img.release); err != nil {
		t.Fatal(err)
	}
	return img
}

func contentName(i int) string { return fmt.Sprintf("content/%03d", i) }

func add(t *testing.T, w *tar.Writer, h *tar.Header, b []byte) {
	t.Helper()
	h.Size, h.ModTime = int64(len(b)), moment
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
}

func sum(b []byte) layout.Digest {
	s := sha256.Sum256(b)
	return layout.Digest("sha256:" + hex.EncodeToString(s[:]))
}

// stored lists the store's files, below a folder.
func (img *image) stored(t *testing.T, below string) []filetree.File {
	t.Helper()
	var files []filetree.File
	err := filepath.WalkDir(img.dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(img.dir, name)
		if rel == ".lock" {
			return nil
		}
		files = append(
			files,
			filetree.File{
				Path: below + rel,
				Size: info.Size(),
				Open: func() (io.ReadCloser, error) { return os.Open(name) },
			},
		)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// iso writes a live medium for BIOS.
func (img *image) iso(t *testing.T, label string) string {
	t.Helper()
	files := append(
		img.stored(t, layout.LiveRoot+"/"),
		filetree.Bytes("boot/vmlinuz", img.files.Kernel),
		filetree.Bytes("boot/initrd", img.files.Initrd),
		filetree.Bytes(
			"boot/grub/grub.cfg",
			[]byte("linux /boot/vmlinuz "+img.files.Cmdline+"\ninitrd /boot/initrd\nboot\n"),
		),
	)
	m, err := disk.ISO{Volume: label, Time: moment, Files: files,
		BootHybrid: img.asset(t, "grub/boot_hybrid.img"), ElTorito: img.asset(t, "grub/eltorito.img")}.Image()
	if err != nil {
		t.Fatal(err)
	}
	return img.write(t, "live.iso", m, 0)
}

func (img *image) systemdBoot(t *testing.T) []byte {
	t.Helper()
	if img.loader != nil {
		return img.loader
	}
	return img.asset(t, "systemd-boot.efi")
}

// disk writes a disk with the image installed, as large as size or larger.
func (img *image) disk(t *testing.T, size int64, blessed bool) string {
	t.Helper()
	d, err := disk.System{
		Release: img.release, Store: img.stored(t, ""), UKI: img.files.UKI, Kernel: img.files.Kernel,
		Initrd: img.files.Initrd, Cmdline: img.files.Cmdline,
		SystemdBoot: img.systemdBoot(t),
		BootImage:   img.asset(t, "grub/boot.img"), CoreImage: img.asset(t, "grub/core.img"),
		Blessed: blessed, SectorSize: img.sectorSize, Time: moment, Seed: []byte("test"),
		Sizes: map[string]int64{"efi": 128 << 20}, Portable: img.portable,
	}.Disk()
	if err != nil {
		t.Fatal(err)
	}
	for i := range d.Partitions {
		p := &d.Partitions[i]
		if !slices.Contains(img.damaged, p.Name) {
			continue
		}
		p.Files = slices.Clone(p.Files)
		for j, f := range p.Files {
			if filepath.Base(f.Path) == layout.ReleaseFile {
				p.Files[j] = filetree.Bytes(f.Path, []byte("{}"))
			}
		}
	}
	m, err := d.Image()
	if err != nil {
		t.Fatal(err)
	}
	return img.write(t, "disk.raw", m, size)
}

func (img *image) write(t *testing.T, name string, m *sparse.Image, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.WriteSparse(context.Background(), f, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(max(m.Size, size)); err != nil {
		t.Fatal(err)
	}
	return path
}

func (img *image) asset(t *testing.T, name string) []byte {
	t.Helper()
	b, err := fs.ReadFile(img.assets, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
