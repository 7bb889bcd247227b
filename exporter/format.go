package exporter

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/kairos-buildkit/kairos/image"
)

// Format is a kind of medium.
type Format string

// The formats.
const (
	FormatISO   Format = "iso"   // live medium
	FormatRaw   Format = "raw"   // disk with the system installed
	FormatQCOW2 Format = "qcow2" // the same as a QEMU disk
)

// Formats lists them.
func Formats() []Format { return []Format{FormatISO, FormatRaw, FormatQCOW2} }

// Export writes the image as a medium of this format to w, from its first byte to its last.
func Export(ctx context.Context, w io.Writer, img image.Image, f Format, o Options) error {
	var err error
	switch f {
	case FormatISO:
		err = writeISO(ctx, w, img, o)
	case FormatRaw, FormatQCOW2:
		err = writeDisk(ctx, w, img, f, o)
	default:
		return fmt.Errorf("format %q is not known: use iso, raw or qcow2", f)
	}
	if err != nil {
		return fmt.Errorf("export image %s: %w", img.Name(), err)
	}
	return nil
}

// ParseFormat reads a format.
func ParseFormat(s string) (Format, error) {
	if slices.Contains(Formats(), Format(s)) {
		return Format(s), nil
	}
	return "", fmt.Errorf("format %q is not known: use iso, raw or qcow2", s)
}

// ParseSize reads a size in bytes, with K, M, G or T behind it in units of 1024 bytes,
// 1024² and so on: 8G, 512M, 1073741824. KiB, KB and so on mean the same.
func ParseSize(s string) (int64, error) {
	number := strings.ToUpper(strings.TrimSpace(s))
	number = strings.TrimSuffix(strings.TrimSuffix(number, "B"), "I")
	shift := 0
	if n := len(number); n > 0 {
		if i := strings.IndexByte("KMGT", number[n-1]); i >= 0 {
			shift, number = 10*(i+1), number[:n-1]
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("size %q: want a number of bytes, or one such as 512M or 8G", s)
	}
	return n << shift, nil
}
