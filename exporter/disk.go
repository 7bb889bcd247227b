package exporter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
)

// CompressZstd is the value of Options.Compress for zstd.
const CompressZstd = "zstd"

// Raw writes a disk with the image installed to w, in one pass from its first byte to its
// last: what an installation makes, with all partitions. The persistent partition is small,
// and grows to the real disk at the first boot.
func Raw(ctx context.Context, w io.Writer, img image.Image, o Options) error {
	return Export(ctx, w, img, FormatRaw, o)
}

func writeDisk(ctx context.Context, w io.Writer, img image.Image, f Format, o Options) (err error) {
	switch {
	case o.Compress != "" && o.Compress != CompressZstd:
		return fmt.Errorf("compress=%s is not known: use %s", o.Compress, CompressZstd)
	case o.Compress != "" && f == FormatQCOW2:
		return errors.New("compress= is for raw disks: a qcow2 file has no room for zeros to begin with")
	}
	c := config.Merge(config.Parse("cloud-config", o.CloudConfig))
	if err := c.Report().Err(); err != nil {
		return err
	}
	o.install = c.Install()
	p, err := prepare(ctx, img, o)
	if err != nil {
		return err
	}
	defer p.Close()
	system, err := p.system()
	if err != nil {
		return err
	}
	d, err := system.Disk()
	if err != nil {
		return err
	}
	medium, err := d.Image()
	if tooSmall := (*disk.SizeError)(nil); errors.As(err, &tooSmall) {
		return fmt.Errorf(
			"size=%d is too small for this image: use size=%dM or more",
			o.Size,
			(tooSmall.Need+1<<20-1)>>20,
		)
	}
	if err != nil {
		return err
	}
	if f == FormatQCOW2 {
		if medium, err = disk.QCOW2(medium); err != nil {
			return err
		}
	}
	step := "writing " + string(f) + " disk"
	done := o.step(step)
	count := func(w io.Writer) io.Writer {
		return &countingWriter{w: w, report: func(n int64) { o.bytes(step, n, medium.Size) }}
	}
	if o.Compress == "" {
		return done(medium.WriteTo(ctx, count(w)))
	}
	// One goroutine, so that the bytes do not depend on the machine. The blobs are compressed
	// already: what there is to gain is in the zeros, and any level finds those.
	out := bufio.NewWriterSize(w, 1<<20)
	z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return done(err)
	}
	if err := medium.WriteTo(ctx, count(z)); err != nil {
		return done(errors.Join(err, z.Close()))
	}
	if err := z.Close(); err != nil {
		return done(err)
	}
	return done(out.Flush())
}

// system is the image as it is installed.
func (p *prepared) system() (disk.System, error) {
	store, err := p.storeFiles()
	if err != nil {
		return disk.System{}, err
	}
	cmdline, err := p.cmdline()
	if err != nil {
		return disk.System{}, err
	}
	s := disk.System{
		Release: p.release(),
		Store:   store,
		UKI:     p.boot.UKI, Kernel: p.boot.Kernel, Initrd: p.boot.Initrd,
		Cmdline: cmdline.String(), Name: p.menuName(),
		Time: p.options.epoch(p.Image),
		// Equal images, equal disks.
		Seed: []byte("raw disk " + p.ConfigDigest), Portable: true,
		Size: p.options.Size, SectorSize: p.options.SectorSize,
	}
	if err := s.Configure(p.options.install, p.options.CloudConfig); err != nil {
		return s, err
	}
	s.SystemdBoot = p.loader
	files := map[string]*[]byte{}
	if p.Config.Architecture == "amd64" {
		files[layout.ImageGrubDir+"/boot.img"] = &s.BootImage
		files[layout.ImageGrubDir+"/core.img"] = &s.CoreImage
	}
	for name, to := range files {
		if *to, err = bounded.ReadFile(p.root, name, maxText); err != nil {
			return s, fmt.Errorf("boot layer: %w", err)
		}
	}
	return s, nil
}
