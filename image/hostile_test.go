package image

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// bomb is a gzip layer of some kilobytes, and how many bytes it has when it is decompressed.
func bomb(t *testing.T) (packed []byte, size int64) {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 6 {
		if _, err := z.Write(zeros); err != nil {
			t.Fatal(err)
		}
		size += int64(len(zeros))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), size
}

// A registry can say what it likes. Each lie is refused by its name, before a layer is asked for where a manifest
// shows it.
func TestHostileManifests(t *testing.T) {
	packed, size := bomb(t)
	for name, c := range map[string]struct {
		change func(b *blobs, m *ocispec.Manifest, config *ocispec.Image)
		want   string
		late   bool // it shows when the layer is read
	}{
		"100,000 layers": {change: func(_ *blobs, m *ocispec.Manifest, _ *ocispec.Image) {
			l := m.Layers[0]
			l.MediaType = ""
			for len(m.Layers) < 100_000 {
				m.Layers = append(m.Layers, l)
			}
		}, want: "it has more than 8 MiB"},
		"20,000 layers": {change: func(_ *blobs, m *ocispec.Manifest, config *ocispec.Image) {
			for len(m.Layers) < 20_000 {
				m.Layers = append(m.Layers, m.Layers[0])
				config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, config.RootFS.DiffIDs[0])
			}
		}, want: "it has 20000 layers, and the kernel takes 500"},
		"more layers than the config": {change: func(_ *blobs, m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers = append(m.Layers, m.Layers[0])
		}, want: "its config names 1 layers, its manifest 2"},
		"negative size": {change: func(_ *blobs, m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[0].Size = -1
		}, want: "layer 1, sha256:"},
		"huge size": {change: func(_ *blobs, m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[0].Size = math.MaxInt64
		}, want: "a size of 9223372036854775807 bytes"},
		"too small a size": {change: func(_ *blobs, m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[0].Size = 1
		}, want: "it has more than the 1 bytes that it should have", late: true},
		"config's size is negative": {change: func(_ *blobs, m *ocispec.Manifest, _ *ocispec.Image) {
			m.Config.Size = -5
		}, want: "size -5"},
		"config of 9 MiB": {change: func(b *blobs, m *ocispec.Manifest, config *ocispec.Image) {
			config.Config.Labels = map[string]string{"x": strings.Repeat("x", 9<<20)}
		}, want: "it has more than 8 MiB"},
		"config of 9 MiB that says it has less": {change: func(b *blobs, m *ocispec.Manifest, _ *ocispec.Image) {
			large := b.put(ocispec.MediaTypeImageConfig, make([]byte, 9<<20))
			m.Config.Digest = large.Digest
		}, want: "bytes that it should have"},
		"a foreign layer": {change: func(_ *blobs, m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[0].URLs = []string{"http://169.254.169.254/latest"}
		}, want: `is not with the image but at "http://169.254.169.254/latest"`},
		"no digest": {change: func(_ *blobs, m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[0].Digest = "sha256:../../etc/passwd"
		}, want: "invalid checksum digest", late: true},
		"a diffID that is a path": {change: func(_ *blobs, _ *ocispec.Manifest, config *ocispec.Image) {
			config.RootFS.DiffIDs[0] = "sha256:../../etc/passwd"
		}, want: "layer 1: digest"},
		"a bomb": {change: func(b *blobs, m *ocispec.Manifest, config *ocispec.Image) {
			m.Layers[0] = b.put(ocispec.MediaTypeImageLayerGzip, packed)
			config.RootFS.DiffIDs[0] = digest.FromBytes(make([]byte, size))
		}, want: "they have more than 5 MiB uncompressed", late: true},
	} {
		b := newBlobs()
		var m ocispec.Manifest
		var config ocispec.Image
		if err := json.Unmarshal(b.content[b.image("linux/amd64", 1).Digest], &m); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b.content[m.Config.Digest], &config); err != nil {
			t.Fatal(err)
		}
		before := m.Config
		c.change(b, &m, &config)
		if made := b.json(ocispec.MediaTypeImageConfig, config); m.Config.Digest == before.Digest {
			size := m.Config.Size
			if m.Config = made; size != before.Size {
				m.Config.Size = size
			}
		}
		o := options("linux/amd64")
		o.Limit = &Limit{Max: 5 << 20}
		img, err := Read(t.Context(), b, o, b.json(ocispec.MediaTypeImageManifest, m))
		if err == nil && c.late {
			r, oerr := img.Layers[0].Open(t.Context())
			if err = oerr; err == nil {
				_, err = io.Copy(io.Discard, r)
				r.Close()
			}
		} else if c.late {
			t.Errorf("%s: %v, before the layer was read", name, err)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %.300s, want %q", name, fmt.Sprint(err), c.want)
		}
		if !c.late && b.opened > 4 { // manifest and config, once for the platform that they are for
			t.Errorf("%s: %d blobs were opened", name, b.opened)
		}
	}
}
