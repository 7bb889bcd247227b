// Package exporter makes bootable media out of container images: no root, no loop device, no
// mount, no external program, and equal bytes for equal input.
//
//	layers ──store.Cache──▶ blobs ─┬─▶ release.json
//	                               └─▶ merged tree ──boot──▶ kernel, initrd, UKI
//	blobs + release.json + boot files ──disk──▶ ISO, raw disk, qcow2
//
// A layer is converted once and then kept in the cache. The boot files are those that the
// image's boot layer brings along; where another kernel or other modules came on top of it,
// they are regenerated. They are read through the blobs themselves, so that the tree which is
// looked at here is the tree which the kernel will mount.
//
// Names and formats on the medium are those of package layout.
package exporter

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/trust"
)

// Options says how to export. The zero value works.
type Options struct {
	// Cache is the folder of the cache with converted layers, and CacheSize the number of
	// bytes that it may take, 0 for no limit. Without a folder, a temporary one is used.
	Cache     string
	CacheSize int64
	// MaxContent bounds the bytes of the image's layers in all, uncompressed and with their files' holes; layers that
	// the cache has are not counted. 0: what [store.MaxContent] makes of the free space that the cache has.
	MaxContent int64
	// CloudConfig is put on the medium, where live boot and installer look for it.
	CloudConfig []byte
	install     config.Install // of the cloud-config, where a disk is made
	// Epoch is the time of everything on the medium. Default: the time at which the image
	// says that it was created, or 1980.
	Epoch time.Time
	// BootLayers makes the boot layer for an image that has none, and the layers on top of
	// it, from the image's tree: their tars, the lowest first. Without it such an image is refused.
	BootLayers func(root fs.FS, config ocispec.Image) (tars [][]byte, err error)

	// Size is the size in bytes of a raw or qcow2 disk; 0 is the smallest. SectorSize is the size of its logical
	// sectors, 512, which 0 stands for, or 4096. Compress is "zstd" or "" for a raw disk.
	Size       int64
	SectorSize int64
	Compress   string

	// Known returns the blob of a layer in a format, where it is somewhere already: then the layer is not
	// converted, and what is read of the blob is compared with its root hash. nil is none.
	Known func(layout.Digest, layout.Format) *image.Blob

	// Signatures returns the signatures of the release that the image becomes, where the image trusts some keys: the
	// content of [layout.ReleaseSignaturesPath], nil where there are none. It is not asked for a medium's release,
	// which has its own.
	Signatures func(context.Context, trust.Anchor, layout.Release) ([]byte, error)
	// BootSignatures returns the signatures of the image's boot files, where the image says that these are apart from
	// it: the content of [layout.ReleaseBootSignaturesPath], nil where there are none. A medium's release has its own.
	BootSignatures func(context.Context) ([]byte, error)
	unsigned       bool // the release is only described

	// Progress is called when a step begins, and what it returns when it ends.
	Progress func(step string) func(error) error
	// Bytes is called now and then within a step: how many of its bytes are done, and of
	// how many, 0 where that is not known.
	Bytes func(step string, done, total int64)
	// Warn is called with a sentence that a person should read.
	Warn func(string)
}

func (o Options) step(name string) func(error) error {
	if o.Progress == nil {
		return func(err error) error { return err }
	}
	return o.Progress(name)
}

func (o Options) bytes(step string, done, total int64) {
	if o.Bytes != nil {
		o.Bytes(step, done, total)
	}
}

func (o Options) warn(format string, args ...any) {
	if o.Warn != nil {
		o.Warn(fmt.Sprintf(format, args...))
	}
}

// epoch is the time of all files on the medium, in whole seconds.
func (o Options) epoch(img image.Image) time.Time {
	t := o.Epoch
	if t.IsZero() && img.Config.Created != nil {
		t = *img.Config.Created
	}
	if oldest := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC); t.Before(oldest) {
		t = oldest // what FAT can express
	}
	return t.UTC().Truncate(time.Second)
}

// maxContent is MaxContent, or its default for the cache's folder, which it makes.
func (o Options) maxContent() (int64, error) {
	if o.MaxContent > 0 {
		return o.MaxContent, nil
	}
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return 0, err
	}
	n, err := store.Free(o.Cache)
	return store.MaxContent(n), err
}
