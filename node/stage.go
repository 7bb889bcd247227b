package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// staged is a release that is complete in a store, and what it boots from.
type stagedRelease struct {
	release layout.Release
	files   BootFiles
}

// stage brings an image into a store: missing layers, then release.json. Nothing that
// boots today is touched.
func (m *Machine) stage(ctx context.Context, s *store.Store, img *image, progress Progress) (*stagedRelease, error) {
	layers, err := stageLayers(ctx, s, img, progress)
	if err != nil {
		return nil, err
	}
	release := img.release(layers)
	files, version, err := m.bootFiles(s, withCmdline(release, m.config()), progress)
	if err != nil {
		return nil, err
	}
	if release.Version == "" {
		release.Version = version
	}
	progress.step("release", release.ID())
	if err := s.AddRelease(release); err != nil {
		return nil, err
	}
	return &stagedRelease{release, files}, nil
}

func stageLayers(ctx context.Context, s *store.Store, img *image, progress Progress) ([]layout.Layer, error) {
	var layers []layout.Layer
	for n, l := range img.layers {
		layer, ok, err := s.Layer(l.diffID)
		if err != nil {
			return nil, err
		}
		if !ok {
			progress.step("layer", fmt.Sprintf("%s (%d of %d)", short(string(l.diffID)), n+1, len(img.layers)))
			if layer, err = addLayer(ctx, s, l, compressionFor(img.config.Config.Labels)); err != nil {
				return nil, err
			}
		}
		layers = append(layers, layer)
	}
	return layers, nil
}

func addLayer(ctx context.Context, s *store.Store, l imageLayer, c erofs.Compression) (layout.Layer, error) {
	r, err := l.open(ctx)
	if err != nil {
		return layout.Layer{}, fmt.Errorf("layer %s: %w", l.diffID, err)
	}
	defer r.Close()
	return s.AddLayer(ctx, l.diffID, r, erofs.Options{Compression: c})
}

// compressionFor chooses how a node compresses what it fetches: as the image asks for, else
// as the running kernel reads it. The kernel that will read it is only known when the layers
// are there.
func compressionFor(labels map[string]string) erofs.Compression {
	switch c := erofs.Compression(labels[layout.ImageLabelCompression]); c {
	case "zstd", "lz4", "none":
		return c
	}
	return runningCompression()
}

// runningCompression is what the running kernel reads: the next one is not older, as a rule,
// and one that cannot read its root uses up its tries.
func runningCompression() erofs.Compression {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "none"
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return "none"
	}
	if major > 6 || major == 6 && minor >= 10 {
		return "zstd"
	}
	return "lz4"
}

// readBootFiles takes a release's boot files out of its layers, or makes them anew where they
// do not fit the image's kernel any more.
func readBootFiles(s *store.Store, r layout.Release, progress Progress) (BootFiles, string, error) {
	progress.step("boot files", "")
	tree, err := s.Tree(r.Layers)
	if err != nil {
		return BootFiles{}, "", err
	}
	defer tree.Close()
	version := ""
	if b, err := fs.ReadFile(tree, layout.ImageRelease); err == nil {
		version = ReleaseVars(b)["KAIROS_VERSION"]
	}
	if _, err := fs.Stat(tree, layout.ImageStub); err != nil {
		return BootFiles{}, "", refuse("the image has no boot layer (/%s is missing): build it with the Kairos frontend (`# syntax=kairos`)", layout.ImageStub)
	}
	o := boot.OptionsFrom(r.Labels)
	fits, why, err := boot.Check(tree, o)
	if err != nil {
		return BootFiles{}, "", refuse("the image cannot boot: %v", err)
	}
	if fits {
		files, err := imageBootFiles(tree)
		return files, version, err
	}
	progress.note("making the boot files anew: " + why)
	made, err := boot.Make(tree, o)
	if err != nil {
		return BootFiles{}, "", refuse("the image cannot boot: %v", err)
	}
	files := BootFiles{UKI: made.UKI, Cmdline: made.Cmdline}
	if hasGrub(tree) {
		files.Kernel, files.Initrd = made.Kernel, made.Initrd
	}
	return files, version, nil
}

func imageBootFiles(tree fs.FS) (f BootFiles, err error) {
	if f.UKI, err = fs.ReadFile(tree, layout.ImageUKI); err != nil {
		return f, err
	}
	b, err := fs.ReadFile(tree, layout.ImageBootManifest)
	if err != nil {
		return f, err
	}
	manifest, err := boot.ParseManifest(b)
	if err != nil {
		return f, err
	}
	f.Cmdline = manifest.Cmdline
	if !hasGrub(tree) {
		return f, nil
	}
	if f.Kernel, err = fs.ReadFile(tree, layout.ImageKernel); err != nil {
		return f, err
	}
	f.Initrd, err = fs.ReadFile(tree, layout.ImageInitrd)
	return f, err
}

// hasGrub says whether an image can boot with GRUB: then its boot layer has GRUB's images.
func hasGrub(tree fs.FS) bool {
	_, err := fs.Stat(tree, layout.ImageGrubDir)
	return err == nil
}

// free returns the free bytes of the file system that a folder is in.
func free(dir string) (int64, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
		}
		return int64(st.Bavail) * st.Bsize, nil
	}
}

// reserve is kept free on each partition, in bytes: for logs and for file system metadata.
const reserve = 8 << 20

// needed estimates the bytes that an image's missing layers take in a store. Compressed layers
// take about the same again as EROFS; uncompressed ones less.
func needed(s *store.Store, img *image) (int64, error) {
	var n int64
	for _, l := range img.layers {
		if _, ok, err := s.Layer(l.diffID); err != nil {
			return 0, err
		} else if !ok {
			n += l.size + l.size/4
		}
	}
	return n, nil
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20) }
