package initrd

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"path"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// maxModule bounds a module's size in bytes, packed and plain, and maxModules that of all which
// an initrd takes: those of distributions have 10 to 40 MiB.
const (
	maxModule  = 128 << 20
	maxModules = 512 << 20
)

// decompress returns the plain bytes of a module file, by its name: .ko, .ko.gz, .ko.xz, .ko.zst.
func decompress(name string, packed []byte) ([]byte, error) {
	var r io.Reader
	switch path.Ext(name) {
	case ".ko":
		return packed, nil
	case ".gz":
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, err
		}
		r = z
	case ".xz":
		z, err := xz.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, err
		}
		r = z
	case ".zst":
		z, err := zstd.NewReader(
			bytes.NewReader(packed),
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxWindow(maxModule),
		)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	default:
		return nil, fmt.Errorf("unknown compression %q: want .ko, .ko.gz, .ko.xz or .ko.zst", path.Ext(name))
	}
	plain, err := bounded.ReadAll(r, maxModule)
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return plain, nil
}
