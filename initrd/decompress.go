package initrd

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"path"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxModule bounds a module's size, so that a broken image cannot take all memory.
const maxModule = 256 << 20

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
		z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	default:
		return nil, fmt.Errorf("unknown compression %q: want .ko, .ko.gz, .ko.xz or .ko.zst", path.Ext(name))
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if len(plain) > maxModule {
		return nil, fmt.Errorf("decompress: larger than %d bytes", maxModule)
	}
	return plain, nil
}
