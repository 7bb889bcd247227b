// Package exporter makes bootable media out of container images: no root, no loop device, no
// mount, no external program, and equal bytes for equal input.
//
//	layers ──store.Cache──▶ blobs ─┬─▶ release.json
//	                               └─▶ merged tree ──boot──▶ kernel, initrd, UKI
//	blobs + release.json + boot files ──disk──▶ ISO, raw disk, qcow2
//
// A layer is converted once and then kept in the cache. The boot files are those that the
// image's boot layer brings along; where another kernel or other modules came on top of it,
// they are made anew. They are read through the blobs themselves, so that the tree which is
// looked at here is the tree which the kernel will mount.
//
// Names and formats on the medium are those of package layout.
package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/layout"
)

// Image is a container image for one platform.
type Image struct {
	Config       ocispec.Image
	ConfigDigest layout.Digest // of the config's bytes, as the image's manifest has it
	Ref          string        // what a person calls it, for errors; may be empty
	Layers       []Layer       // the lowest first
}

// Layer is one layer of an image.
type Layer struct {
	DiffID layout.Digest
	// Size is the size of the uncompressed tar in bytes where it is known, for progress.
	Size int64
	// Open returns the uncompressed tar. It is not called for a layer that the cache has.
	Open func(context.Context) (io.ReadCloser, error)
}

// Options says how to export. The zero value works.
type Options struct {
	// Cache is the folder of the cache with converted layers, and CacheSize the number of
	// bytes that it may take, 0 for no limit. Without a folder, a temporary one is used.
	Cache     string
	CacheSize int64
	// CloudConfig is put on the medium, where live boot and installer look for it.
	CloudConfig []byte
	// Epoch is the time of everything on the medium. Default: the time at which the image
	// says that it was created, or 1980.
	Epoch time.Time
	// BootLayer makes the boot layer for an image that has none, from its tree. It writes
	// the layer's tar. Without it such an image is refused.
	BootLayer func(w io.Writer, root fs.FS, config ocispec.Image) error

	// Size is the size in bytes of a raw or qcow2 disk; 0 is the smallest. Compress is
	// "zstd" or "" for a raw disk.
	Size     int64
	Compress string

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
func (o Options) epoch(img Image) time.Time {
	t := o.Epoch
	if t.IsZero() && img.Config.Created != nil {
		t = *img.Config.Created
	}
	if oldest := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC); t.Before(oldest) {
		t = oldest // what FAT can express
	}
	return t.UTC().Truncate(time.Second)
}

// check looks at what the image says of itself.
func (img Image) check() error {
	if _, err := layout.ParseDigest(string(img.ConfigDigest)); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if img.Config.OS != "" && img.Config.OS != "linux" {
		return fmt.Errorf("it is for %s: only linux images can boot", img.Config.OS)
	}
	if len(img.Layers) == 0 {
		return errors.New("it has no layers: it needs at least a kernel and an init")
	}
	ids := img.Config.RootFS.DiffIDs
	if len(ids) != len(img.Layers) {
		return fmt.Errorf("its config lists %d layers, and there are %d: it is damaged", len(ids), len(img.Layers))
	}
	for i, l := range img.Layers {
		if _, err := layout.ParseDigest(string(l.DiffID)); err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
		if string(ids[i]) != string(l.DiffID) {
			return fmt.Errorf("layer %d is %s, and its config says %s: it is damaged", i+1, l.DiffID, ids[i])
		}
	}
	return nil
}

// name is what errors call the image.
func (img Image) name() string {
	if img.Ref != "" {
		return img.Ref
	}
	return string(img.ConfigDigest)
}
