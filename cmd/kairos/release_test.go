package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/google/go-containerregistry/pkg/name"
	testregistry "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/builder"
	"github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
)

// bootableLayers are the layers, as tar files, of an image that boots.
func bootableLayers(t *testing.T) (layers [][]byte) {
	t.Helper()
	return bootableWith(t, nil, nil)
}

// bootableWith is bootableLayers with files and labels.
func bootableWith(t *testing.T, files map[string][]byte, labels map[string]string) (layers [][]byte) {
	t.Helper()
	tree := boottest.Tree("6.12.1-amd64")
	for name, b := range files {
		tree[name] = &fstest.MapFile{Data: b, Mode: 0o644}
	}
	made, err := boot.Make(tree, boot.OptionsFrom(labels))
	if err != nil {
		t.Fatal(err)
	}
	file := func(b []byte) *fstest.MapFile { return &fstest.MapFile{Data: b, Mode: 0o644} }
	for _, tree := range []fstest.MapFS{tree, {
		layout.ImageKernel:       boottest.Link(path.Base(made.KernelPath)),
		layout.ImageInitrd:       file(made.Initrd),
		layout.ImageUKI:          file(made.UKI),
		layout.ImageBootManifest: file(made.Manifest.Marshal()),
		layout.ImageSystemdBoot:  file(boottest.Program("systemd-boot")),
	}, {layout.ImageRelease: file([]byte("KAIROS_VERSION=v1\n"))}} {
		layers = append(layers, boottest.Tar(t, boottest.WithFolders(tree)))
	}
	return layers
}

// A packing is how a program that pushes stores a layer.
type packing struct {
	mediaType string
	pack      func(t *testing.T, tar []byte) []byte
}

// gzippedIn packs by members of so many bytes, 0 for one.
func gzippedIn(mediaType string, level, member int) packing {
	return packing{mediaType, func(t *testing.T, tar []byte) []byte {
		var b bytes.Buffer
		for first := true; first || len(tar) > 0; first = false {
			part := tar
			if member > 0 {
				part = tar[:min(member, len(tar))]
			}
			tar = tar[len(part):]
			w, err := gzip.NewWriterLevel(&b, level)
			if err != nil {
				t.Fatal(err)
			}
			w.Write(part)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		return b.Bytes()
	}}
}

func zstdIn(mediaType string) packing {
	return packing{mediaType, func(t *testing.T, tar []byte) []byte {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		return w.EncodeAll(tar, nil)
	}}
}

// rawManifest is what a registry gets as it is.
type rawManifest struct {
	mediaType string
	b         []byte
}

func (r rawManifest) RawManifest() ([]byte, error)        { return r.b, nil }
func (r rawManifest) MediaType() (types.MediaType, error) { return types.MediaType(r.mediaType), nil }

func (r rawManifest) desc() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: r.mediaType, Digest: digest.FromBytes(r.b), Size: int64(len(r.b))}
}

// stock is the shape in which a stock BuildKit, or another program, pushes an image.
type stock struct {
	manifest, config, index string // media types; no index: the tag names the manifest
	layer                   packing
	labels                  map[string]string // besides version and epoch
	attested                bool              // the index has an attestation manifest, as buildx makes by default
}

// push pushes an image of some layers under a tag, and returns its platform's manifest.
func (s stock) push(t *testing.T, ref string, layers [][]byte) ocispec.Descriptor {
	t.Helper()
	tag, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	blob := func(mediaType string, b []byte) ocispec.Descriptor {
		if err := remote.WriteLayer(tag.Context(), static.NewLayer(b, types.MediaType(mediaType))); err != nil {
			t.Fatal(err)
		}
		return rawManifest{mediaType, b}.desc()
	}
	marshal := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	put := func(to name.Reference, m rawManifest) ocispec.Descriptor {
		if err := remote.Put(to, m); err != nil {
			t.Fatal(err)
		}
		return m.desc()
	}
	platform := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	config := ocispec.Image{Platform: platform}
	config.RootFS.Type = "layers"
	config.Config.Labels = map[string]string{layout.ImageLabelVersion: "v1", layout.ImageLabelEpoch: "3"}
	maps.Copy(config.Config.Labels, s.labels)
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: s.manifest}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		m.Layers = append(m.Layers, blob(s.layer.mediaType, s.layer.pack(t, l)))
	}
	m.Config = blob(s.config, marshal(config))
	made := rawManifest{s.manifest, marshal(m)}
	if s.index == "" {
		return put(tag, made)
	}
	image := put(tag.Context().Digest(made.desc().Digest.String()), made)
	image.Platform = &platform
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: s.index, Manifests: []ocispec.Descriptor{image},
	}
	if s.attested {
		statement := blob("application/vnd.in-toto+json", []byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`))
		empty := ocispec.Image{Platform: ocispec.Platform{OS: "unknown", Architecture: "unknown"}}
		empty.RootFS.Type = "layers"
		b := rawManifest{ocispec.MediaTypeImageManifest, marshal(ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: blob(ocispec.MediaTypeImageConfig, marshal(empty)), Layers: []ocispec.Descriptor{statement},
		})}
		attestation := put(tag.Context().Digest(b.desc().Digest.String()), b)
		attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
		attestation.Annotations = map[string]string{
			"vnd.docker.reference.type":   "attestation-manifest",
			"vnd.docker.reference.digest": image.Digest.String(),
		}
		index.Manifests = append(index.Manifests, attestation)
	}
	put(tag, rawManifest{s.index, marshal(index)})
	return made.desc()
}

// An image has one release, whoever pushed it: what `kairos release` makes of a stock BuildKit's push is, byte for
// byte, what our builder publishes of the same layers, whatever these are compressed with. Only the record's line with
// the manifest's digest is the manifest's own; where that is the same, so is all. That our builder's outputs publish
// what builder.PublishRelease makes, the builder's own test says.
func TestReleaseOfAStockPush(t *testing.T) {
	srv := httptest.NewServer(testregistry.New(
		testregistry.Logger(log.New(io.Discard, "", 0)), testregistry.WithReferrersSupport(true),
	))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	layers := bootableLayers(t)
	on := source.Options{Platform: "linux/amd64"}
	find := func(ref string, manifest ocispec.Descriptor) release.Artifact {
		t.Helper()
		repository, _, err := inRegistry(t.Context(), ref, on)
		if err != nil {
			t.Fatal(err)
		}
		a, err := release.Find(t.Context(), repository, layout.Digest(manifest.Digest))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	const ociManifest, ociConfig, ociIndex = ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig,
		ocispec.MediaTypeImageIndex
	usual := gzippedIn(ocispec.MediaTypeImageLayerGzip, gzip.DefaultCompression, 0)

	ref := host + "/ours:v1"
	at := stock{manifest: ociManifest, config: ociConfig, layer: usual}.push(t, ref, layers)
	repository, img, err := inRegistry(t.Context(), ref, on)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := builder.PublishRelease(
		t.Context(), repository, *img, exporter.Options{Cache: t.TempDir()}, false, nil,
	); err != nil {
		t.Fatal(err)
	}
	ours := find(ref, at)
	if ours.Release.Epoch != 3 || len(ours.Blobs) != len(layers) {
		t.Fatalf("%+v", ours)
	}
	for what, s := range map[string]stock{
		"as ours":       {manifest: ociManifest, config: ociConfig, layer: usual},
		"with an index": {manifest: ociManifest, config: ociConfig, index: ociIndex, layer: usual},
		"with provenance": {manifest: ociManifest, config: ociConfig, index: ociIndex, layer: usual,
			attested: true},
		"gzip, fast": {manifest: ociManifest, config: ociConfig, index: ociIndex, attested: true,
			layer: gzippedIn(ocispec.MediaTypeImageLayerGzip, gzip.BestSpeed, 0)},
		"gzip, best": {manifest: ociManifest, config: ociConfig,
			layer: gzippedIn(ocispec.MediaTypeImageLayerGzip, gzip.BestCompression, 0)},
		"gzip in members": {manifest: ociManifest, config: ociConfig,
			layer: gzippedIn(ocispec.MediaTypeImageLayerGzip, gzip.DefaultCompression, 100_000)},
		"zstd": {manifest: ociManifest, config: ociConfig, index: ociIndex, attested: true,
			layer: zstdIn(ocispec.MediaTypeImageLayerZstd)},
		"uncompressed": {manifest: ociManifest, config: ociConfig,
			layer: packing{ocispec.MediaTypeImageLayer, func(_ *testing.T, tar []byte) []byte { return tar }}},
		"Docker's types": {manifest: images.MediaTypeDockerSchema2Manifest,
			config: images.MediaTypeDockerSchema2Config,
			layer:  gzippedIn(images.MediaTypeDockerSchema2LayerGzip, gzip.DefaultCompression, 0)},
		"Docker's list, fast": {manifest: images.MediaTypeDockerSchema2Manifest,
			config: images.MediaTypeDockerSchema2Config, index: images.MediaTypeDockerSchema2ManifestList,
			layer: gzippedIn(images.MediaTypeDockerSchema2LayerGzip, gzip.BestSpeed, 0)},
		"Docker's types, zstd": {manifest: images.MediaTypeDockerSchema2Manifest,
			config: images.MediaTypeDockerSchema2Config,
			layer:  zstdIn(images.MediaTypeDockerSchema2LayerZstd)},
	} {
		t.Run(what, func(t *testing.T) {
			// A repository and a cache of its own: nothing is taken from another door.
			repo := strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(strings.ToLower(what))
			ref := host + "/" + repo + ":v1"
			manifest := s.push(t, ref, layers)
			run(t, 0, "release", "--platform", "linux/amd64", "--cache", t.TempDir(), ref)
			theirs := find(ref, manifest)
			if manifest.Digest == at.Digest && !theirs.Equal(ours) {
				t.Errorf("the same manifest has another release: %+v, and ours is %+v", theirs, ours)
			}
			if manifest.Digest != at.Digest == (theirs.Release.Manifest == ours.Release.Manifest) {
				t.Errorf("%s has the release of %s", manifest.Digest, theirs.Release.Manifest)
			}
			if !slices.EqualFunc(theirs.Blobs, ours.Blobs, sameBlob) {
				t.Errorf("other blobs: %+v, and ours are %+v", theirs.Blobs, ours.Blobs)
			}
			same := theirs.Release
			same.Manifest = ours.Release.Manifest
			got, gotErr := same.Marshal()
			want, wantErr := ours.Release.Marshal()
			if gotErr != nil || wantErr != nil || !bytes.Equal(got, want) {
				t.Errorf("%v, %v: another record:\n%s\nand ours is\n%s", gotErr, wantErr, got, want)
			}
		})
	}
}

func sameBlob(a, b ocispec.Descriptor) bool {
	return a.Digest == b.Digest && a.Size == b.Size && a.MediaType == b.MediaType
}
