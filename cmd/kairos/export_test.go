package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// gzipped is a compressed layer with one file of zeros, and its name.
func gzipped(t *testing.T, zeros int64) ([]byte, digest.Digest) {
	t.Helper()
	var b bytes.Buffer
	z, sum := gzip.NewWriter(&b), digest.SHA256.Digester()
	both := io.MultiWriter(z, sum.Hash())
	w := tar.NewWriter(both)
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: zeros}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zeroReader{}, zeros); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), sum.Digest()
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Some kilobytes that are megabytes when they are decompressed are refused, with what to do about it.
func TestExportBoundsContent(t *testing.T) {
	dir := t.TempDir()
	put := func(mediaType string, content []byte) ocispec.Descriptor {
		d := digest.FromBytes(content)
		name := filepath.Join(dir, "blobs/sha256", d.Encoded())
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
	}
	marshal := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	layer, diffID := gzipped(t, 8<<20)
	if len(layer) > 16<<10 {
		t.Fatalf("the layer has %d bytes", len(layer))
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	config.RootFS.DiffIDs = []digest.Digest{diffID}
	var m ocispec.Manifest
	m.Config = put(ocispec.MediaTypeImageConfig, marshal(config))
	m.Layers = []ocispec.Descriptor{put(ocispec.MediaTypeImageLayerGzip, layer)}
	index := marshal(ocispec.Index{Manifests: []ocispec.Descriptor{put(ocispec.MediaTypeImageManifest, marshal(m))}})
	if err := os.WriteFile(filepath.Join(dir, "index.json"), index, 0o600); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[string]string{
		"":                "kernel", // it is none that boots
		",max-content=9M": "kernel",
		",max-content=7M": "add max-content=SIZE to the output",
	} {
		out := filepath.Join(t.TempDir(), "os.iso")
		o := exportOptions{output: "type=iso,dest=" + out + limit, cache: t.TempDir()}
		o.source.Platform = "linux/amd64"
		var stderr bytes.Buffer
		err := o.run(t.Context(), "oci-layout:"+dir, streams{out: io.Discard, err: &stderr})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", limit, err, want)
		}
		if left, _ := os.ReadDir(filepath.Dir(out)); len(left) > 0 {
			t.Errorf("%q: left behind: %v", limit, left)
		}
	}
}
