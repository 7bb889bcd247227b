package exporter

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/store"
)

// What layers have in all is bounded, however little each has. Layers that the cache has cost nothing.
func TestContentIsBounded(t *testing.T) {
	base, user, bootLayer := bootable(t)
	zeros := layerOf(t, fstest.MapFS{"zeros": text(strings.Repeat("\x00", 3<<20))})
	more := layerOf(t, fstest.MapFS{"more": text(strings.Repeat("\x00", 3<<20))})
	img := imageOf(t, nil, base, user, zeros, more, bootLayer)
	var all int64
	for _, l := range img.Layers {
		all += l.Size
	}
	export(t, img, FormatISO, Options{MaxContent: all})
	var tooLarge *erofs.ContentError
	err := Export(t.Context(), io.Discard, img, FormatISO, Options{MaxContent: all - 1})
	if !errors.As(err, &tooLarge) || tooLarge.Max != all-1 {
		t.Errorf("one byte too much: %v", err)
	}
	// Where nobody says it, it is what the disk of the cache may hold.
	cache := t.TempDir()
	free, err := store.Free(cache)
	if err != nil {
		t.Fatal(err)
	}
	// Others take and free some of it meanwhile.
	most, err := Options{Cache: cache}.maxContent()
	if want := store.MaxContent(free); err != nil || most < want/2 || most > want*2 {
		t.Errorf("%d bytes with %d free, %v; want %d", most, free, err, want)
	}
	full := Options{MaxContent: store.MaxContent(1 << 20)}
	holes := imageOf(t, nil, base, user, layerOf(t, fstest.MapFS{"zeros": text(strings.Repeat("\x00", 129<<20))}),
		bootLayer)
	if err := Export(t.Context(), io.Discard, holes, FormatISO, full); !errors.As(err, &tooLarge) {
		t.Errorf("on a full disk: %v", err)
	}
	export(t, holes, FormatISO, Options{})
	export(t, img, FormatISO, Options{Cache: cache})
	export(t, img, FormatISO, Options{Cache: cache, MaxContent: 1})
}
