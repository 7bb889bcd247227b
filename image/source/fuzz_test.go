package source

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
)

// FuzzTree opens what nobody has checked: the metadata of an OCI layout, or of an old docker-archive. $digest and
// $config stand for the digests of config and manifest.
func FuzzTree(f *testing.F) {
	const (
		index = `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"$digest",` +
			`"size":$size,"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}`
		manifest = `{"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"$config","size":7},` +
			`"layers":[]}`
		docker = `[{"Config":"$config.json","RepoTags":["example.test/os:v1"],"Layers":["a","a/../a"]}]`
		config = `{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":["$layer"]}}`
	)
	f.Add(index, manifest, config, "")
	f.Add(index, manifest, config, "v1")
	f.Add("", docker, config, "example.test/os:v1")
	f.Add("", strings.Replace(docker, "$config.json", "config", 1), config, "")
	f.Fuzz(func(t *testing.T, index, manifest, config, tag string) {
		files := fstest.MapFS{"a": {Data: []byte("layer")}}
		put := func(content string) string {
			d := digest.FromString(content)
			files["blobs/sha256/"+d.Encoded()] = &fstest.MapFile{Data: []byte(content)}
			files[d.Encoded()+".json"] = files["blobs/sha256/"+d.Encoded()]
			return d.String()
		}
		config = strings.ReplaceAll(config, "$layer", put("layer"))
		c := put(config)
		files["config"] = &fstest.MapFile{Data: []byte(config)}
		if index == "" {
			manifest = strings.ReplaceAll(manifest, "$config", strings.TrimPrefix(c, "sha256:"))
			files["manifest.json"] = &fstest.MapFile{Data: []byte(manifest)}
		} else {
			manifest = strings.ReplaceAll(manifest, `"$config","size":7`, `"`+c+`","size":`+size(config))
			index = strings.ReplaceAll(strings.ReplaceAll(index, "$digest", put(manifest)), "$size", size(manifest))
			files["index.json"] = &fstest.MapFile{Data: []byte(index)}
		}
		o := opening{image: image.Options{Fallback: true}}
		o.image.Platform = ocispec.Platform{OS: "linux", Architecture: "amd64"}
		img, err := fromTree(context.Background(), files, tag, io.NopCloser(nil), o)
		if err != nil {
			return
		}
		if string(img.ConfigDigest) != c {
			t.Fatalf("config %s was taken for %s", img.ConfigDigest, c)
		}
		if len(img.Layers) != len(img.Config.RootFS.DiffIDs) {
			t.Fatalf("%d layers, and a config of %d", len(img.Layers), len(img.Config.RootFS.DiffIDs))
		}
		_ = img.Check() // whatever it says
	})
}

func size(s string) string { return strconv.Itoa(len(s)) }

// FuzzTar shows an archive as a tree. No file of it has more than the archive.
func FuzzTar(f *testing.F) {
	for _, h := range []tar.Header{
		{Name: "index.json", Size: 2},
		{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"},
		{Name: "/b/../c", Typeflag: tar.TypeLink, Linkname: "c"},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&h); err != nil {
			f.Fatal(err)
		}
		_, _ = w.Write([]byte("{}")[:h.Size])
		_ = w.Flush()
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 8<<10 {
			return
		}
		tree, err := tarTree(bytes.NewReader(content))
		if err != nil {
			return
		}
		shown := tree.(tarFS)
		for _, n := range slices.Concat(slices.Sorted(maps.Keys(shown.entries)),
			slices.Sorted(maps.Keys(shown.links))) {
			in, err := tree.Open(n)
			if err != nil {
				continue
			}
			if got, _ := io.Copy(io.Discard, in.(io.Reader)); got > int64(len(content)) {
				t.Fatalf("%q has %d bytes, and the archive %d", n, got, len(content))
			}
			_ = in.Close()
		}
	})
}
