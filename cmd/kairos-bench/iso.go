package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/frontend/bootlayer"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
)

// media measures a live ISO of the Debian base: ours, from its layers; and as Kairos's builder
// makes it, with mksquashfs and xorriso from an unpacked tree, which we do not count.
func (b *bench) media(ctx context.Context) error {
	dir := filepath.Join(b.dir, "iso")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(filepath.Join(dir, "tree"), 0o755)); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bootTar, lateTar := filepath.Join(dir, "boot.tar"), filepath.Join(dir, "late.tar")
	if err := errors.Join(bootLayer(ctx, debianTar, bootTar), lateLayer(lateTar)); err != nil {
		return err
	}
	layers, err := digests(debianTar, bootTar, lateTar)
	if err != nil {
		return err
	}
	cold, coldSize, err := b.ours(ctx, dir, layers[:2], nil)
	if err != nil {
		return err
	}
	late, lateSize, err := b.ours(ctx, dir, layers, layers[:2])
	if err != nil {
		return err
	}
	theirs, theirSize, err := b.squashISO(ctx, dir)
	if err != nil {
		return err
	}
	var t strings.Builder
	fmt.Fprintf(&t, "Input: debian-trixie.tar and its boot layer. Medians of %d. %s.\n\n", b.runs, machine())
	t.WriteString("| ISO | seconds | CPU seconds | MB | times as fast | size |\n|---|--:|--:|--:|--:|--:|\n")
	base := median(seconds(theirs))
	for _, r := range []struct {
		name string
		runs []cost
		size int64
	}{
		{"Kairos, cold", cold, coldSize},
		{"Kairos, one late layer of 1 MB changed", late, lateSize},
		{"mksquashfs (gzip, 1 MiB) + xorriso", theirs, theirSize},
	} {
		var cpu []float64
		for _, c := range r.runs {
			cpu = append(cpu, c.cpu)
		}
		s := median(seconds(r.runs))
		fmt.Fprintf(
			&t,
			"| %s | %.2f | %.2f | %.1f | %.1f | %.3f |\n",
			r.name,
			s,
			median(cpu),
			mb(r.size),
			base/s,
			float64(r.size)/float64(theirSize),
		)
	}
	return b.replace("iso", t.String())
}

func seconds(runs []cost) (s []float64) {
	for _, c := range runs {
		s = append(s, c.seconds)
	}
	return s
}

// ours exports an image with these layers; those in warm are in the cache already.
func (b *bench) ours(ctx context.Context, dir string, layers, warm []string) (runs []cost, size int64, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, 0, err
	}
	cache, out := filepath.Join(dir, "cache"), filepath.Join(dir, "ours.iso")
	for range b.runs {
		if err := os.RemoveAll(cache); err != nil {
			return nil, 0, err
		}
		if warm != nil {
			if _, err := process(ctx, "", append([]string{self, "iso", cache, out}, warm...)...); err != nil {
				return nil, 0, err
			}
		}
		c, err := process(ctx, "", append([]string{self, "iso", cache, out}, layers...)...)
		if err != nil {
			return nil, 0, err
		}
		runs = append(runs, c)
	}
	info, err := os.Stat(out)
	if err != nil {
		return nil, 0, err
	}
	return runs, info.Size(), nil
}

func (b *bench) squashISO(ctx context.Context, dir string) (runs []cost, size int64, err error) {
	tree, iso, out := filepath.Join(dir, "tree"), filepath.Join(dir, "medium"), filepath.Join(dir, "theirs.iso")
	for _, layer := range []string{debianTar, filepath.Join(dir, "boot.tar")} {
		_, err := process(ctx, "", "tar", "--extract", "--file", layer, "--directory", tree, "--numeric-owner",
			"--xattrs", "--xattrs-include=*")
		if err != nil {
			return nil, 0, err
		}
	}
	for range b.runs {
		err := errors.Join(os.RemoveAll(iso), os.MkdirAll(filepath.Join(iso, "boot"), 0o755), os.RemoveAll(out))
		if err != nil {
			return nil, 0, err
		}
		total := cost{}
		for _, args := range [][]string{
			{tools + "mksquashfs", tree, filepath.Join(iso, "rootfs.squashfs"), "-comp", "gzip", "-b", "1M",
				"-noappend", "-no-progress", "-quiet"},
			{"cp", "--dereference", filepath.Join(tree, layout.ImageInitrd), filepath.Join(tree, layout.ImageKernel),
				filepath.Join(iso, "boot")},
			{"xorriso", "-as", "mkisofs", "-quiet", "-volid", layout.LabelLive, "-output", out, iso},
		} {
			c, err := process(ctx, "", args...)
			if err != nil {
				return nil, 0, err
			}
			total = total.and(c)
		}
		runs = append(runs, total)
	}
	info, err := os.Stat(out)
	if err != nil {
		return nil, 0, err
	}
	return runs, info.Size(), nil
}

// bootLayer writes the layer that a build adds to a base.
func bootLayer(ctx context.Context, base, path string) error {
	plain := path + ".plain"
	defer os.Remove(plain)
	if err := convert(ctx, []string{"none", base, plain}); err != nil {
		return err
	}
	image, err := os.Open(plain)
	if err != nil {
		return err
	}
	defer image.Close()
	tree, err := erofs.Open(image)
	if err != nil {
		return err
	}
	var root fs.FS = erofs.Overlay(tree)
	layer, err := bootlayer.Make(root, bootlayer.Options{Arch: runtime.GOARCH})
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(layer.WriteTar(f, root), f.Close())
}

// lateLayer writes a layer with one file of 1 MB.
func lateLayer(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	content := strings.Repeat("what changed last\n", 1<<20/18)
	err = w.WriteHeader(
		&tar.Header{Name: "etc/late", Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1700000000, 0)},
	)
	if err == nil {
		_, err = io.WriteString(w, content)
	}
	return errors.Join(err, w.Close(), f.Close())
}

// digests returns each layer as DIFFID=FILE.
func digests(paths ...string) ([]string, error) {
	var list []string
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return nil, err
		}
		list = append(list, fmt.Sprintf("sha256:%x=%s", h.Sum(nil), path))
	}
	return list, nil
}

// exportISO is our exporter as a process.
func exportISO(ctx context.Context, args []string) error {
	if len(args) < 3 {
		return errors.New("usage: kairos-bench iso CACHE ISO DIFFID=TAR...")
	}
	img := image.Image{Ref: "benchmark"}
	img.Config.OS, img.Config.Architecture = "linux", runtime.GOARCH
	img.Config.RootFS.Type = "layers"
	created := time.Unix(1700000000, 0)
	img.Config.Created = &created
	for _, arg := range args[2:] {
		id, path, _ := strings.Cut(arg, "=")
		img.Config.RootFS.DiffIDs = append(img.Config.RootFS.DiffIDs, digest.Digest(id))
		img.Config.History = append(img.Config.History, ocispec.History{Created: &created})
		img.Layers = append(img.Layers, image.Layer{
			DiffID: layout.Digest(id), Open: func(context.Context) (io.ReadCloser, error) { return os.Open(path) },
		})
	}
	config, err := json.Marshal(img.Config)
	if err != nil {
		return err
	}
	img.ConfigDigest = layout.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(config)))
	out, err := os.Create(args[1])
	if err != nil {
		return err
	}
	return errors.Join(exporter.ISO(ctx, out, img, exporter.Options{Cache: args[0]}), out.Close())
}
