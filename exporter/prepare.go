package exporter

import (
	"bytes"
	"cmp"
	"context"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// prepared is an image whose layers are converted and whose boot files are there.
type prepared struct {
	Image
	options     Options
	blobs       []*store.Blob // as the image's layers
	trees       []fs.FS       // of the blobs
	root        fs.FS         // merged
	compression erofs.Compression
	boot        boot.Files
	temporary   string // folder of the cache, where it is to be removed
}

// prepare converts the image's layers and finds or makes its boot files.
func prepare(ctx context.Context, img Image, o Options) (_ *prepared, err error) {
	if err := img.check(); err != nil {
		return nil, err
	}
	p := &prepared{Image: img, options: o}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if o.Cache == "" {
		if p.temporary, err = os.MkdirTemp("", "kairos-layers-"); err != nil {
			return nil, err
		}
		p.options.Cache = p.temporary
	}
	if err := p.convert(ctx); err != nil {
		return nil, err
	}
	if _, err := fs.Stat(p.root, layout.ImageInit); errors.Is(err, fs.ErrNotExist) {
		if err := p.addBootLayer(ctx); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if err := p.bootFiles(); err != nil {
		return nil, err
	}
	return p, nil
}

// Close closes the blobs.
func (p *prepared) Close() error {
	var errs []error
	for _, b := range p.blobs {
		errs = append(errs, b.Close())
	}
	p.blobs = nil
	if p.temporary != "" {
		errs = append(errs, os.RemoveAll(p.temporary))
	}
	return errors.Join(errs...)
}

// convert makes the blobs, compressed as the image's own kernel can read them. Which kernel
// that is shows in the tree only, so it is guessed first.
func (p *prepared) convert(ctx context.Context) error {
	label := strings.TrimSpace(p.Config.Config.Labels[layout.ImageLabelCompression])
	if label != "" && rank(label) < 0 {
		return fmt.Errorf("label %s=%q: want zstd, lz4 or none", layout.ImageLabelCompression, label)
	}
	guess := cmp.Or(label, p.guess())
	if err := p.convertAs(ctx, erofs.Compression(guess)); err != nil {
		return err
	}
	kernel, err := boot.FindKernel(p.root)
	if err != nil {
		return err
	}
	can := cmp.Or(string(kernel.Compression()), "none")
	switch {
	case label == "" && can != guess:
		if err := p.forget(); err != nil {
			return err
		}
		return p.convertAs(ctx, erofs.Compression(can))
	case rank(guess) > rank(can):
		return fmt.Errorf("label %s=%s: the image's kernel %s reads %s at most: change the label, or install a newer kernel",
			layout.ImageLabelCompression, label, kernel.Version, can)
	}
	return nil
}

// guess is the compression that the image's lowest layer has in the cache, or else zstd, which
// nearly all kernels in use read.
func (p *prepared) guess() string {
	for _, c := range []string{"zstd", "lz4", "none"} {
		if p.cache().Has(p.Layers[0].DiffID, erofs.Options{Compression: erofs.Compression(c)}) {
			return c
		}
	}
	return "zstd"
}

// forget takes out of the cache what was put there for a wrong guess, so that it is not made
// again.
func (p *prepared) forget() error {
	for _, b := range p.blobs {
		if !b.Hit {
			if err := p.cache().Remove(b.DiffID, erofs.Options{Compression: p.compression}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *prepared) cache() *store.Cache { return store.NewCache(p.options.Cache, p.options.CacheSize) }

// rank orders compressions by what a kernel has to know for them.
func rank(compression string) int {
	for i, c := range []string{"none", "lz4", "zstd"} {
		if c == compression {
			return i
		}
	}
	return -1
}

// convertAs makes or finds the blob of each layer, and opens the merged tree.
func (p *prepared) convertAs(ctx context.Context, c erofs.Compression) error {
	for _, b := range p.blobs {
		b.Close()
	}
	p.blobs, p.compression = nil, c
	for i := range p.Layers {
		if err := p.addBlob(ctx, i); err != nil {
			return err
		}
	}
	return p.openTree()
}

// addBlob gets the blob of layer i.
func (p *prepared) addBlob(ctx context.Context, i int) error {
	layer := p.Layers[i]
	name := fmt.Sprintf("layer %d of %d %s", i+1, len(p.Layers), layer.DiffID)
	step, done := "", func(err error) error { return err }
	blob, err := p.cache().Get(ctx, layer.DiffID, erofs.Options{Compression: p.compression}, func(ctx context.Context) (io.ReadCloser, error) {
		// Only called where the cache has no such blob.
		step = "converting " + name
		done = p.options.step(step)
		r, err := layer.Open(ctx)
		if err != nil {
			return nil, err
		}
		return &countingReader{ReadCloser: r, report: func(n int64) { p.options.bytes(step, n, layer.Size) }}, nil
	})
	if err := done(err); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if step == "" {
		if err := p.options.step("cached " + name)(nil); err != nil {
			return err
		}
	}
	p.blobs = append(p.blobs, blob)
	return nil
}

func (p *prepared) openTree() error {
	p.trees = nil
	for _, b := range p.blobs {
		tree, err := erofs.Open(io.NewSectionReader(b, 0, b.Layer.Size))
		if err != nil {
			return fmt.Errorf("layer %s: %w", b.DiffID, err)
		}
		p.trees = append(p.trees, tree)
	}
	p.root = erofs.Overlay(p.trees...)
	return nil
}

// layerOf returns the number of the layer that a file of the image is in: the highest that has it.
func (p *prepared) layerOf(name string) (int, bool) {
	for i := len(p.trees) - 1; i >= 0; i-- {
		if info, err := fs.Stat(p.trees[i], name); err == nil && info.Mode().IsRegular() {
			return i, true
		}
	}
	return 0, false
}

// bootFiles reads the boot files from the image, or makes them anew.
func (p *prepared) bootFiles() error {
	options := boot.OptionsFrom(p.Config.Config.Labels)
	fits, why, err := boot.Check(p.root, options)
	if err != nil {
		return err
	}
	if !fits {
		p.options.warn("The image's boot files are made anew: %s.", strings.TrimSuffix(why, "."))
		done := p.options.step("making boot files")
		made, err := boot.Make(p.root, options)
		if err := done(err); err != nil {
			return err
		}
		p.boot = *made
		return nil
	}
	for name, to := range map[string]*[]byte{
		layout.ImageKernel: &p.boot.Kernel, layout.ImageInitrd: &p.boot.Initrd, layout.ImageUKI: &p.boot.UKI,
	} {
		if *to, err = fs.ReadFile(p.root, name); err != nil {
			return err
		}
	}
	return nil
}

// cmdline reads the command line out of the UKI, so that BIOS and UEFI boot with the same one.
func (p *prepared) cmdline() (layout.Cmdline, error) {
	f, err := pe.NewFile(bytes.NewReader(p.boot.UKI))
	if err != nil {
		return nil, fmt.Errorf("read the UKI: %w", err)
	}
	s := f.Section(".cmdline")
	if s == nil {
		return nil, errors.New("read the UKI: it has no command line")
	}
	b, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("read the UKI: %w", err)
	}
	// The section is padded to the file's alignment.
	return layout.ParseCmdline(string(bytes.TrimRight(b[:min(len(b), int(s.VirtualSize))], "\x00"))), nil
}

// release describes the image as a release.
func (p *prepared) release() layout.Release {
	r := layout.Release{
		// The reference is left out: every door to the same image makes the same medium.
		Version: p.version(),
		Config:  p.ConfigDigest,
		Arch:    p.Config.Architecture,
		Labels:  layout.ReleaseLabels(p.Config.Config.Labels),
	}
	for _, b := range p.blobs {
		r.Layers = append(r.Layers, b.Layer)
	}
	return r
}

// version is what the image says of itself: KAIROS_VERSION, as the node reads it.
func (p *prepared) version() string {
	b, err := fs.ReadFile(p.root, layout.ImageRelease)
	if err != nil {
		return layout.ImageVersion(p.Config.Config.Labels)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "KAIROS_VERSION="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

type countingReader struct {
	io.ReadCloser
	n      int64
	report func(int64)
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n += int64(n)
	c.report(c.n)
	return n, err
}
