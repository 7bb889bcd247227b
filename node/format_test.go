package node

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// A node that goes to an image with an older kernel shares no layer with it that this one cannot
// read: it refuses before anything is fetched.
func TestOlderKernelIsRefused(t *testing.T) {
	s := store.New(t.TempDir())
	tar := tarOf(t, map[string]string{"etc/motd": strings.Repeat("hello ", 100000)})
	id := layout.Digest(digest.FromBytes(tar))
	layer, err := s.AddLayer(t.Context(), id, bytes.NewReader(tar), erofs.Options{Compression: erofs.Zstd})
	if err != nil {
		t.Fatal(err)
	}
	for label, refused := range map[string]bool{"zstd-0-v2": false, "lz4-0-v2": true, "none-0-v2": true, "": false} {
		img := &source.Image{Image: image.Image{Layers: []image.Layer{{DiffID: id}}}}
		img.Config.Config.Labels = map[string]string{layout.ImageLabelFormat: label}
		err := readableBefore(s, img)
		if r := (*RefusedError)(nil); errors.As(err, &r) != refused || err != nil && !refused {
			t.Errorf("label %q: %v", label, err)
		}
	}
	// Without a label it is the kernel that is in the layers.
	if err := readable(s, []layout.Layer{layer}, "the image's kernel 6.1", "lz4"); err == nil ||
		!strings.Contains(err.Error(), "6.1 reads lz4 at most") {
		t.Error(err)
	}
}

// What is fetched is converted for the image's own kernel.
func TestCompressionForTheImage(t *testing.T) {
	for _, c := range []struct {
		labels map[string]string
		want   erofs.Compression
	}{
		{map[string]string{layout.ImageLabelFormat: "lz4-0-v2"}, erofs.LZ4},
		{map[string]string{layout.ImageLabelFormat: "lz4-0-v2", layout.ImageLabelCompression: "none"}, erofs.None},
		{map[string]string{layout.ImageLabelFormat: "xz"}, runningCompression()},
		{nil, runningCompression()},
	} {
		if got := compressionFor(c.labels); got != c.want {
			t.Errorf("%v: %s, want %s", c.labels, got, c.want)
		}
	}
}

// An image with an older kernel than the one that its layers were converted for is refused before anything changes;
// the recovery system, which has a store of its own, gets them converted for its kernel.
func TestLayersForAnOlderKernel(t *testing.T) {
	a, _, _ := threeImages(t)
	shared := tarOf(t, map[string]string{"etc/motd": strings.Repeat("hello ", 100000)})
	old := newImage(t, runtime.GOARCH, shared, a.layers[0], a.layers[2]) // its label says none
	disk := t.TempDir()
	m := install(t, disk, "uefi", t.TempDir(), a)
	id := layout.Digest(digest.FromBytes(shared))
	have, err := m.State.AddLayer(t.Context(), id, bytes.NewReader(shared), erofs.Options{Compression: erofs.Zstd})
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	m.freeBytes = func(string) (int64, error) { asked = true; return 1 << 40, nil }
	var refused *RefusedError
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: old.source()}); !errors.As(err, &refused) ||
		!strings.Contains(err.Error(), "reads none at most") || asked {
		t.Errorf("%v", err)
	}
	if layer, ok, err := m.State.Layer(id); err != nil || !ok || layer != have {
		t.Errorf("the shared layer is %+v, %v, %v", layer, ok, err)
	}
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: old.source(), Recovery: true}); err != nil {
		t.Fatal(err)
	}
	layer, ok, err := m.Recovery.Layer(id)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if c, err := m.Recovery.Compression(layer); err != nil || c != erofs.None {
		t.Errorf("recovery has the layer as %s, %v", c, err)
	}
}
