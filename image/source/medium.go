package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/image/medium"
)

// openISO opens FILE[:RELEASE], an ISO.
func openISO(_ context.Context, s string, o opening) (*Image, error) { return openMedium(s, o, true) }

// openDisk opens FILE[:RELEASE], a raw or qcow2 disk.
func openDisk(_ context.Context, s string, o opening) (*Image, error) { return openMedium(s, o, false) }

func openMedium(s string, o opening, iso bool) (_ *Image, err error) {
	name, release := splitTag(s)
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	m, err := Medium(f)
	if err != nil {
		return nil, err
	}
	if iso != (m.Format == "iso") {
		kind := Disk
		if !iso {
			kind = ISO
		}
		return nil, fmt.Errorf("its format is %s: write %s", m.Format, Ref{kind, s})
	}
	r, err := m.Find(release)
	if err != nil {
		return nil, err
	}
	img, err := r.Image(o.image)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", r.ID(), err)
	}
	return &Image{Image: *img, close: f.Close}, nil
}

// packed are the beginnings of files that programs pack media into.
var packed = map[string]string{
	"\x28\xb5\x2f\xfd": "zstd -d",
	"\x1f\x8b":         "gunzip",
	"\xfd7zXZ\x00":     "unxz",
	"BZh":              "bunzip2",
}

// Medium reads a medium in a file or device.
func Medium(f *os.File) (*medium.Medium, error) {
	size, err := f.Seek(0, io.SeekEnd) // of a device, too
	if err != nil {
		return nil, err
	}
	m, err := medium.Open(f, size)
	if !errors.Is(err, disk.ErrNoMedium) {
		return m, err
	}
	b := make([]byte, 8)
	_, _ = f.ReadAt(b, 0) // what is shorter is nothing of these
	for magic, with := range packed {
		if string(b[:len(magic)]) == magic {
			return nil, fmt.Errorf("it is compressed: unpack it with `%s`", with)
		}
	}
	return nil, err
}
