package erofs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
)

// An archive of some kilobytes may claim exabytes, and is not believed.
func TestLayerIsBounded(t *testing.T) {
	const tib = 1 << 40
	n := &bounds{max: tib, names: 1000}
	if err := n.take(tib, 10); err != nil {
		t.Error(err)
	}
	if err := n.take(1, 10); err == nil {
		t.Error("more content than the bound")
	}
	if err := n.take(math.MaxInt64, 10); err == nil {
		t.Error("more content than an int64 has")
	}
	if err := (&bounds{max: 1, names: 1000}).take(0, 800); err == nil {
		t.Error("more names than the bound")
	}
	layer := layerTar(t, tar.Header{Name: "a", Mode: 0o644}, tar.Header{Name: "b", Mode: 0o644, Typeflag: tar.TypeDir})
	for _, compression := range []Compression{None, Zstd} {
		zeros := io.LimitReader(zeroReader{}, 16<<20)
		for _, c := range []struct {
			name  string
			layer io.Reader
			max   int64
			ok    bool
		}{
			{"as much as it may have", bytes.NewReader(layer), int64(len(layer)), true},
			{"less than the archive", bytes.NewReader(layer), int64(len(layer)) - 1, false},
			{"a hole", bytes.NewReader(sparseTar(t, 4<<40)), 0, false},
			{"a hole that is allowed", bytes.NewReader(sparseTar(t, 1<<20)), 1 << 20, true},
			{"zeros behind its end", io.MultiReader(bytes.NewReader(layer), zeros), 1 << 20, false},
		} {
			_, err := Convert(t.Context(), &memory{}, c.layer, Options{Compression: compression, MaxContent: c.max})
			if tooLarge := (*ContentError)(nil); c.ok && err != nil || !c.ok && !errors.As(err, &tooLarge) {
				t.Errorf("%s, %s: %v", compression, c.name, err)
			}
		}
	}
}

// Many layers, each of which is within its bound, are not within all bounds.
func TestBudgetIsShared(t *testing.T) {
	const mib = 1 << 20
	o := Options{Compression: Zstd, MaxContent: 4 * mib, Budget: NewBudget(10 * mib)}
	convert := func() error {
		_, err := Convert(t.Context(), &memory{}, bytes.NewReader(sparseTar(t, 4*mib)), o)
		return err
	}
	for range 2 {
		if err := convert(); err != nil {
			t.Fatal(err)
		}
	}
	var tooLarge *ContentError
	if err := convert(); !errors.As(err, &tooLarge) || tooLarge.Max != 10*mib {
		t.Errorf("a third layer: %v", err)
	}
}

// sparseTar is an archive of 2 KiB in the old GNU format, with a file that is one hole of so many bytes.
func sparseTar(t *testing.T, size uint64) []byte {
	t.Helper()
	b := layerTar(t, tar.Header{Name: "hole", Mode: 0o644, Format: tar.FormatGNU})
	b[156] = tar.TypeGNUSparse
	base256 := func(at int, n uint64) {
		b[at] = 0x80
		for i := range 8 {
			b[at+11-i] = byte(n >> (8 * i))
		}
	}
	base256(386, size) // the one entry of the map: at the end, of no bytes
	base256(386+12, 0)
	base256(483, size) // the real size
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}
