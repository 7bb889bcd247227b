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
	"maps"
	"os"
	"strings"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/uki"
)

// What is read of an image into memory is bounded, in bytes.
const (
	maxText     = 16 << 20
	maxKernel   = 256 << 20
	maxBootFile = 1 << 30 // kernel and initrd, in a UKI
)

// prepared is an image whose layers are converted and whose boot files are there.
type prepared struct {
	image.Image
	options     Options
	blobs       []*store.Blob // as the image's layers
	trees       []fs.FS       // of the blobs
	root        fs.FS         // merged
	compression erofs.Compression
	maxContent  int64
	budget      *erofs.Budget // of that, for the layers that are converted
	boot        boot.Files
	secureBoot  *boot.SecureBoot // what the image has for that, nil where it is nothing
	loader      []byte           // systemd-boot
	uki         layout.Digest    // Authenticode digest of the UKI that the image's own labels give
	signed      *layout.Release  // what the image's keys have signed; nil where it has none
	detached    []byte           // signatures of boot files, where they are apart from the image
	temporary   string           // folder of the cache, where it is to be removed
}

// prepare converts the image's layers and finds or makes its boot files.
func prepare(ctx context.Context, img image.Image, o Options) (_ *prepared, err error) {
	if err := img.Check(); err != nil {
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
	if p.maxContent, err = p.options.maxContent(); err != nil {
		return nil, err
	}
	if p.Made != nil {
		err = p.takeOver(ctx)
	} else {
		err = p.convert(ctx)
	}
	if err != nil {
		return nil, err
	}
	if _, err := fs.Stat(p.root, layout.ImageInit); errors.Is(err, fs.ErrNotExist) {
		if p.Made != nil {
			return nil, fmt.Errorf("its release %s has no boot layer: it cannot boot", p.Made.ID())
		}
		if err := p.addBootLayers(ctx); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if p.Made == nil { // the layer that sets others right is among those of a medium
		if err := p.fixUp(ctx); err != nil {
			return nil, err
		}
	}
	if err := p.bootFiles(ctx); err != nil {
		return nil, err
	}
	if err := p.seal(ctx); err != nil {
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
// that is shows in the tree only, so that what the image says of it is believed first.
func (p *prepared) convert(ctx context.Context) error {
	labels := p.Config.Config.Labels
	label := strings.TrimSpace(labels[layout.ImageLabelCompression])
	if label != "" && layout.CompressionRank(label) < 0 {
		return fmt.Errorf("label %s=%q: want zstd, lz4 or none", layout.ImageLabelCompression, label)
	}
	format, _ := layout.ParseFormat(labels[layout.ImageLabelFormat])
	guess := cmp.Or(label, format.Compression)
	if guess == "" {
		var err error
		if guess, err = p.guess(ctx); err != nil {
			return err
		}
	}
	if err := p.convertAs(ctx, erofs.Compression(guess)); err != nil {
		return err
	}
	kernel, err := boot.FindKernel(p.root, boot.OptionsFrom(labels))
	if err != nil {
		return err
	}
	can := kernel.Compression()
	fits := layout.CompressionRank(guess) <= layout.CompressionRank(can)
	switch {
	case guess == can, fits && (label != "" || format.Compression != ""):
		return nil
	case label != "":
		return fmt.Errorf(
			"label %s=%s: the image's kernel %s reads %s at most: change the label, or install a newer kernel",
			layout.ImageLabelCompression,
			label,
			kernel.Version,
			can,
		)
	case format.Compression != "":
		p.options.warn(
			"The image's kernel %s does not read the format %s that its label %s names: "+
				"its layers are converted to %s.",
			kernel.Version,
			format,
			layout.ImageLabelFormat,
			can,
		)
	}
	if err := p.forget(); err != nil {
		return err
	}
	return p.convertAs(ctx, erofs.Compression(can))
}

// guess is the compression that the image's lowest layer has in the cache, else what the layers
// say of the kernel, else zstd, which nearly all kernels in use read.
func (p *prepared) guess(ctx context.Context) (string, error) {
	for _, c := range []string{"zstd", "lz4", "none"} {
		if p.cache().Has(p.Layers[0].DiffID, erofs.Options{Compression: erofs.Compression(c)}) {
			return c, nil
		}
	}
	can, err := p.readAbility(ctx)
	return cmp.Or(can, "zstd"), err
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

// convertAs makes or finds the blob of each layer, and opens the merged tree.
func (p *prepared) convertAs(ctx context.Context, c erofs.Compression) error {
	for _, b := range p.blobs {
		b.Close()
	}
	p.blobs, p.compression = nil, c
	p.budget = erofs.NewBudget(p.maxContent)
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
	if b := p.known(layer.DiffID); b != nil {
		p.blobs = append(p.blobs, b)
		return p.options.step("known " + name)(nil)
	}
	step, done := "", func(err error) error { return err }
	o := erofs.Options{
		Compression: p.compression,
		MaxContent:  p.maxContent,
		Budget:      p.budget,
	}
	blob, err := p.cache().Get(ctx, layer.DiffID, o, func(ctx context.Context) (io.ReadCloser, error) {
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

// openTree merges the blobs' trees. Each block is checked against its root hash when it is read: what boots comes from
// here, and a disk may fail after the cache has looked at a blob.
func (p *prepared) openTree() error {
	tree, err := store.MergedTree(p.blobs)
	if err != nil {
		return err
	}
	p.trees, p.root = tree.Layers(), tree
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

// bootFiles reads the boot files from the image, or regenerates them.
func (p *prepared) bootFiles(ctx context.Context) error {
	own := p.Config.Config.Labels
	labels := p.options.install.Labels(own)
	err := p.findSecureBoot(ctx)
	if err != nil {
		return err
	}
	if p.boot, err = p.bootFilesWith(labels, p.options.warn); err != nil {
		return err
	}
	if p.loader, err = p.secureBoot.ReadLoader(p.root); err != nil {
		return fmt.Errorf("boot layer: %w", err)
	}
	// What has no signatures yet is where they are made from.
	if p.secureBoot != nil && !(p.secureBoot.Apart && p.options.unsigned) {
		if err := p.secureBoot.CheckAll(p.programs()); err != nil {
			return err
		}
	}
	if p.detached, err = p.secureBoot.Detached(p.programs()); err != nil {
		return err
	}
	program := p.boot.UKI
	if !maps.Equal(labels, own) {
		image, err := p.bootFilesWith(own, func(string, ...any) {})
		if err != nil {
			return err
		}
		program = image.UKI
	}
	sum, err := uki.Authenticode(program)
	if err != nil {
		return fmt.Errorf("/%s: %w", layout.ImageUKI, err)
	}
	p.uki = layout.SHA256(sum)
	return nil
}

func (p *prepared) bootFilesWith(labels map[string]string, warn func(string, ...any)) (files boot.Files, err error) {
	options := p.bootOptions(labels)
	fits, why, err := boot.Check(p.root, options)
	if err != nil {
		return files, err
	}
	if !fits {
		done := p.options.step("making boot files")
		made, err := boot.Make(p.root, options)
		if errors.Is(err, boot.ErrNoKey) || errors.Is(err, boot.ErrNoPCRKey) {
			err = fmt.Errorf("%s: %w", strings.TrimSuffix(why, "."), err)
		}
		if err := done(err); err != nil {
			return files, err
		}
		warn("The image's boot files are regenerated: %s.", strings.TrimSuffix(why, "."))
		return *made, nil
	}
	for name, to := range map[string]*[]byte{
		layout.ImageKernel: &files.Kernel, layout.ImageInitrd: &files.Initrd, layout.ImageUKI: &files.UKI,
	} {
		limit := int64(maxBootFile)
		if name == layout.ImageKernel {
			limit = maxKernel
		}
		if *to, err = bounded.ReadFile(p.root, name, limit); err != nil {
			return files, err
		}
	}
	files.UKI, err = p.secureBoot.Finish(layout.ImageUKI, files.UKI)
	return files, err
}

// bootOptions are what labels ask for, with the signatures that are apart from the image.
func (p *prepared) bootOptions(labels map[string]string) boot.Options {
	o := boot.OptionsFrom(labels)
	o.Detached = p.detached
	return o
}

// findSecureBoot reads what the image has for Secure Boot, and finds the signatures of boot files that are apart from
// it: those of the medium that it is on, or those beside it. Whether they are good is asked when they are put on.
func (p *prepared) findSecureBoot(ctx context.Context) (err error) {
	labels := p.Config.Config.Labels
	if p.secureBoot, err = boot.ReadSecureBoot(p.root, p.bootOptions(labels)); err != nil {
		return err
	}
	if p.secureBoot == nil || !p.secureBoot.Apart {
		return nil
	}
	switch {
	case p.Made != nil:
		p.detached = p.Made.BootSignatures
	case p.options.BootSignatures != nil && !p.options.unsigned:
		if p.detached, err = p.options.BootSignatures(ctx); err != nil {
			return fmt.Errorf("signatures of the image's boot files: %w", err)
		}
	}
	p.secureBoot, err = boot.ReadSecureBoot(p.root, p.bootOptions(labels))
	return err
}

// programs are the boot files that a key signs for Secure Boot, by their paths in the image.
func (p *prepared) programs() map[string][]byte {
	return map[string][]byte{layout.ImageUKI: p.boot.UKI, layout.ImageSystemdBoot: p.loader}
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
	r := p.record()
	r.BootSignatures = p.detached
	return r
}

func (p *prepared) record() layout.Release {
	if p.signed != nil {
		return *p.signed
	}
	if p.Made != nil {
		r := *p.Made
		r.Image = "" // as below
		if len(r.Signatures) == 0 {
			r.Manifest = "" // as below
		}
		return r
	}
	r := p.described()
	// The reference and the manifest are left out: every door to the same image makes the same medium.
	r.Image, r.Manifest = "", ""
	if boot.ReadsRelease(p.root) < layout.ReleaseSchema {
		return r.AsV1()
	}
	return r
}

// described is the release in its newest format, whatever its /init reads.
func (p *prepared) described() layout.Release {
	var layers []layout.Layer
	for _, b := range p.blobs {
		layers = append(layers, b.Layer)
	}
	r := p.Release(layers)
	r.Version, r.Image = p.version(), ""
	r.Format = layout.Format{Compression: string(p.compression), Version: erofs.FormatVersion}
	r.UKI = p.uki
	return r
}

// version is what the image says of itself, as the node reads it.
func (p *prepared) version() string {
	b, _ := bounded.ReadFile(p.root, layout.ImageRelease, maxText) // there may be none
	labels := p.Config.Config.Labels
	return cmp.Or(layout.ReleaseVersion(labels, b), layout.ImageVersion(labels))
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
