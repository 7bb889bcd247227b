package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
)

// blobs is content by digest; opened counts how often it is asked for.
type blobs struct {
	content map[digest.Digest][]byte
	opened  int
}

func newBlobs() *blobs { return &blobs{content: map[digest.Digest][]byte{}} }

func (b *blobs) Open(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	b.opened++
	c, ok := b.content[d.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(c)), nil
}

// put keeps content, and returns what describes it.
func (b *blobs) put(mediaType string, content []byte) ocispec.Descriptor {
	d := digest.FromBytes(content)
	b.content[d] = content
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

func (b *blobs) json(mediaType string, v any) ocispec.Descriptor {
	content, err := json.Marshal(v)
	if err != nil {
		panic(err) // of a test's own value
	}
	return b.put(mediaType, content)
}

// image keeps an image for a platform, of layers that say for which one.
func (b *blobs) image(platform string, layers int) ocispec.Descriptor {
	p := platforms.MustParse(platform)
	config := ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for n := range layers {
		l := b.put(ocispec.MediaTypeImageLayer, fmt.Appendf(nil, "%s, layer %d", platform, n))
		m.Layers, config.RootFS.DiffIDs = append(m.Layers, l), append(config.RootFS.DiffIDs, l.Digest)
	}
	m.Config = b.json(ocispec.MediaTypeImageConfig, config)
	return b.json(ocispec.MediaTypeImageManifest, m)
}

func (b *blobs) index(entries ...ocispec.Descriptor) ocispec.Descriptor {
	return b.json(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries,
	})
}

// on is an index's entry that says for which platform it is.
func on(platform string, d ocispec.Descriptor) ocispec.Descriptor {
	p := platforms.MustParse(platform)
	d.Platform = &p
	return d
}

func options(platform string) Options { return Options{Platform: platforms.MustParse(platform)} }

// Each blob has the size and the digest that its descriptor says, wherever it comes from.
func TestReadChecksBlobs(t *testing.T) {
	longer := func(b []byte) []byte { return append(bytes.Clone(b), ' ') }
	shorter := func(b []byte) []byte { return b[:len(b)-1] }
	other := func(b []byte) []byte { return bytes.Replace(b, []byte("linux"), []byte("linuX"), 1) }
	for name, c := range map[string]struct {
		damage func([]byte) []byte
		want   string
	}{
		"more":    {longer, "it has more than the"},
		"less":    {shorter, "bytes instead of"},
		"another": {other, "its content is another one"},
	} {
		b := newBlobs()
		m := b.image("linux/amd64", 1)
		if _, err := Read(t.Context(), b, options("linux/amd64"), m); err != nil {
			t.Fatalf("%s: sound: %v", name, err)
		}
		var manifest ocispec.Manifest
		if err := json.Unmarshal(b.content[m.Digest], &manifest); err != nil {
			t.Fatal(err)
		}
		config := manifest.Config.Digest
		b.content[config] = c.damage(b.content[config])
		if _, err := Read(t.Context(), b, options("linux/amd64"), m); err == nil ||
			!strings.Contains(err.Error(), c.want) ||
			!strings.Contains(err.Error(), config.String()) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// A layer is checked as it is read: its end is reached only if it is the one of the manifest.
func TestLayersAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		want    string
	}{
		"more":    {"linux/amd64, layer 0!", "it has more than the"},
		"less":    {"linux/amd64, layer", "bytes instead of"},
		"another": {"linux/amd64, layer 1", "its content is another one"},
		"sound":   {"linux/amd64, layer 0", ""},
	} {
		b := newBlobs()
		img, err := Read(t.Context(), b, options("linux/amd64"), b.image("linux/amd64", 1))
		if err != nil {
			t.Fatal(err)
		}
		b.content[digest.Digest(img.Layers[0].DiffID)] = []byte(c.content)
		r, err := img.Layers[0].Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(r)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Metadata that is larger than any image's is not fetched, whatever its descriptor is of.
func TestReadBoundsMetadata(t *testing.T) {
	b := newBlobs()
	for name, d := range map[string]ocispec.Descriptor{
		"index":    b.put(ocispec.MediaTypeImageIndex, []byte("{}")),
		"manifest": b.put(ocispec.MediaTypeImageManifest, []byte("{}")),
	} {
		d.Size = MaxMetadata + 1
		_, err := Read(t.Context(), b, options("linux/amd64"), d)
		if tooLarge := (*bounded.SizeError)(nil); !errors.As(err, &tooLarge) || b.opened > 0 {
			t.Errorf("%s: %v, opened %d times", name, err, b.opened)
		}
	}
	m := ocispec.Manifest{Config: b.put(ocispec.MediaTypeImageConfig, []byte("{}"))}
	m.Config.Size = MaxMetadata + 1
	_, err := Read(t.Context(), b, options("linux/amd64"), b.json(ocispec.MediaTypeImageManifest, m))
	if tooLarge := (*bounded.SizeError)(nil); !errors.As(err, &tooLarge) || b.opened != 1 {
		t.Errorf("config: %v, opened %d times", err, b.opened)
	}
}

// As many layers as overlayfs takes are an image; one more is refused, with both numbers and before a layer is
// fetched.
func TestLayerLimit(t *testing.T) {
	b := newBlobs()
	img, err := Read(t.Context(), b, options("linux/amd64"), b.image("linux/amd64", layout.MaxLayers))
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Check(); err != nil {
		t.Errorf("%d layers: %v", layout.MaxLayers, err)
	}
	want := fmt.Sprintf("it has %d layers, and the kernel takes %d", layout.MaxLayers+1, layout.MaxLayers)
	_, err = Read(t.Context(), b, options("linux/amd64"), b.image("linux/amd64", layout.MaxLayers+1))
	if unfit := (*UnfitError)(nil); !errors.As(err, &unfit) || unfit.Platform || !strings.HasPrefix(unfit.What, want) {
		t.Errorf("read: %v", err)
	}
	more := *img // as who makes an image himself may have it
	more.Layers = append(more.Layers, more.Layers[0])
	more.Config.RootFS.DiffIDs = append(more.Config.RootFS.DiffIDs, more.Config.RootFS.DiffIDs[0])
	err = more.Check()
	if unfit := (*UnfitError)(nil); !errors.As(err, &unfit) || unfit.Platform || !strings.HasPrefix(unfit.What, want) {
		t.Errorf("check: %v", err)
	}
}

// What an image says of itself has to agree.
func TestCheck(t *testing.T) {
	sound := func() *Image {
		b := newBlobs()
		img, err := Read(t.Context(), b, options("linux/amd64"), b.image("linux/amd64", 2))
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	if err := sound().Check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Image){
		"config:":            func(i *Image) { i.ConfigDigest = "sha256:0" },
		"only linux":         func(i *Image) { i.Config.OS = "windows" },
		"it has no layers":   func(i *Image) { i.Layers, i.Config.RootFS.DiffIDs = nil, nil },
		"its config names 2": func(i *Image) { i.Layers = i.Layers[:1] },
		"layer 2: ":          func(i *Image) { i.Layers[1].DiffID = "sha512:00" },
		"there is no check": func(i *Image) {
			i.Config.Config.Labels = map[string]string{layout.ImageLabelHealth: "disk"}
		},
		"and its config says sha": func(i *Image) { i.Layers[1].DiffID = i.Layers[0].DiffID },
	} {
		img := sound()
		change(img)
		if err := img.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	// The same, where a manifest and its config disagree.
	b := newBlobs()
	config := b.json(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: platforms.MustParse("linux/amd64")})
	m := b.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Config: config, Layers: []ocispec.Descriptor{b.put(ocispec.MediaTypeImageLayer, []byte("x"))},
	})
	if _, err := Read(t.Context(), b, options("linux/amd64"), m); err == nil ||
		!strings.Contains(err.Error(), "its config names 0 layers, its manifest 1: it is damaged") {
		t.Errorf("a layer that the config does not name: %v", err)
	}
}
