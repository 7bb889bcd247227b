package initrd

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// packers compress as the suffix of a module's file says.
var packers = map[string]func(io.Writer) (io.WriteCloser, error){
	".ko.gz":  func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
	".ko.xz":  func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	".ko.zst": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)) },
}

func packed(t testing.TB, suffix string, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := packers[suffix](&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What was compressed comes out, and anything else is an error.
func FuzzDecompress(f *testing.F) {
	for suffix := range packers {
		f.Add(packed(f, suffix, []byte("\x7fELF a module")))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for suffix := range packers {
			if plain, err := decompress("m"+suffix, b); err == nil && len(plain) > maxModule {
				t.Errorf("%s: %d bytes came out", suffix, len(plain))
			}
			if plain, err := decompress("m"+suffix, packed(t, suffix, b)); err != nil || !bytes.Equal(plain, b) {
				t.Errorf("%s: %d bytes came out of %d (%v)", suffix, len(plain), len(b), err)
			}
		}
	})
}
