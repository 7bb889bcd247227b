package image

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzRead reads an index, a manifest and a config that nobody has checked. $manifest, $config and $layer stand for
// the digest and size of what they name, so that mutations of one do not hide the next.
func FuzzRead(f *testing.F) {
	const (
		index = `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
			`$manifest,"platform":{"os":"linux","architecture":"amd64","variant":"v2"}},` +
			`{"mediaType":"application/vnd.oci.image.manifest.v1+json",$manifest}]}`
		manifest = `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json",$config},` +
			`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar",$layer}]}`
		config = `{"os":"linux","architecture":"amd64","variant":"v2",` +
			`"rootfs":{"type":"layers","diff_ids":["$diffid"]}}`
	)
	f.Add(index, manifest, config)
	f.Add(strings.ReplaceAll(index, "amd64", "arm64"), manifest, config)
	f.Add(strings.Replace(index, `"platform"`, `"artifactType":"application/x","platform"`, 1), manifest, config)
	docker := strings.ReplaceAll(index, ".oci.image.manifest", ".docker.distribution.manifest")
	f.Add(docker, manifest, strings.Replace(config, `,"variant":"v2"`, "", 1))
	f.Add(index, strings.Replace(manifest, `"layers"`, `"artifactType":"application/x","layers"`, 1), config)
	f.Fuzz(func(t *testing.T, index, manifest, config string) {
		b := newBlobs()
		layer := b.put(ocispec.MediaTypeImageLayer, []byte("layer"))
		place := func(in, name string, d ocispec.Descriptor) string {
			return strings.ReplaceAll(in, name, fmt.Sprintf(`"digest":%q,"size":%d`, d.Digest, d.Size))
		}
		c := b.put(ocispec.MediaTypeImageConfig, []byte(strings.ReplaceAll(config, "$diffid", layer.Digest.String())))
		m := b.put(ocispec.MediaTypeImageManifest, []byte(place(place(manifest, "$config", c), "$layer", layer)))
		i := b.put(ocispec.MediaTypeImageIndex, []byte(place(index, "$manifest", m)))
		for _, o := range []Options{
			options("linux/amd64/v2"), {Platform: options("linux/amd64").Platform, Fallback: true},
		} {
			b.opened = 0
			img, err := Read(context.Background(), b, o, i)
			if b.opened > 3*(maxManifests+1) {
				t.Fatalf("%d blobs were read", b.opened)
			}
			if err != nil {
				continue
			}
			if len(img.Layers) != len(img.Config.RootFS.DiffIDs) {
				t.Fatalf("%d layers, and a config of %d", len(img.Layers), len(img.Config.RootFS.DiffIDs))
			}
			if _, ok := b.content[digest.Digest(img.ConfigDigest)]; !ok {
				t.Fatalf("config %s is none that was there", img.ConfigDigest)
			}
			if !o.Fallback && img.Config.Architecture != "" &&
				o.fits(platforms.Normalize(img.Config.Platform)) != nil {
				t.Fatalf("it is for %+v", img.Config.Platform)
			}
			_ = img.Check() // whatever it says
			for _, l := range img.Layers {
				if r, err := l.Open(context.Background()); err == nil {
					_, _ = io.Copy(io.Discard, r)
					_ = r.Close()
				}
			}
		}
	})
}

// FuzzUncompressed opens a layer in whatever form it is. No more of it is given than the limit, and a buffer, allow.
func FuzzUncompressed(f *testing.F) {
	for _, s := range []string{
		"", "tar", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x4b\xca\xc9\x4f\x02\x00\x5d\x5c\x9c\x4f\x04\x00\x00\x00",
		"\x28\xb5\x2f\xfd\x04\x00\x11\x00\x00\x61\x62\x00", "\x50\x2a\x4d\x18\x01\x00\x00\x00x",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, layer []byte) {
		const limit = 1 << 20
		open := Uncompressed(func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(string(layer))), nil
		}, &Limit{Max: limit})
		var sizes []int64
		for range 2 {
			r, err := open(context.Background())
			if err != nil {
				return
			}
			n, _ := io.Copy(io.Discard, r)
			if _ = r.Close(); n > limit+64<<10 {
				t.Fatalf("%d bytes came out", n)
			}
			sizes = append(sizes, n)
		}
		if min(sizes[0], limit) != min(sizes[1], limit) {
			t.Fatalf("%d bytes at first, then %d", sizes[0], sizes[1])
		}
	})
}
