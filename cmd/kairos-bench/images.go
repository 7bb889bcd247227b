package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
)

// testImage is an image in the registry: a base, the boot layer that a build adds to it, and the layer with its
// version.
type testImage struct {
	ref    string
	dir    string // for what is made of it
	layers []testLayer
}

type testLayer struct {
	tar  string // file
	blob ocispec.Descriptor
}

func (i testImage) path(name string) string { return filepath.Join(i.dir, name) }

// name is that of a layer in a folder.
func (l testLayer) name(dir string) string { return dir + "/" + l.blob.Digest.Encoded() }

// find finds an image of layers that is there already.
func (i *testImage) find(ctx context.Context, layers ...string) error {
	from, desc, err := registry.Find(ctx, i.ref, registry.Options{AuthFiles: []string{}})
	if err != nil {
		return err
	}
	raw, err := image.ReadBlob(ctx, from, desc)
	if err != nil {
		return err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return err
	}
	if len(manifest.Layers) != len(layers) {
		return fmt.Errorf("%s has %d layers, want %d", i.ref, len(manifest.Layers), len(layers))
	}
	for n, file := range layers {
		i.layers = append(i.layers, testLayer{file, manifest.Layers[n]})
	}
	return nil
}

// push pushes an image of layers.
func (i *testImage) push(ctx context.Context, layers ...string) (err error) {
	to, err := source.Create(ctx, source.Ref{Kind: source.Registry, Name: i.ref}, source.Options{})
	if err != nil {
		return err
	}
	defer func() { err = to.Finish(err) }()
	created := time.Unix(1767225600, 0).UTC()
	config := ocispec.Image{Created: &created}
	config.OS, config.Architecture, config.RootFS.Type = "linux", runtime.GOARCH, "layers"
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	manifest.SchemaVersion = 2
	for _, file := range layers {
		diffID, blob, err := pushLayer(ctx, to, file, i.path("layer.gz"))
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		config.History = append(config.History, ocispec.History{Created: &created})
		manifest.Layers = append(manifest.Layers, blob)
		i.layers = append(i.layers, testLayer{file, blob})
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return err
	}
	manifest.Config = describe(ocispec.MediaTypeImageConfig, raw)
	if _, err := to.Push(ctx, manifest.Config, bytes.NewReader(raw)); err != nil {
		return err
	}
	if raw, err = json.Marshal(manifest); err != nil {
		return err
	}
	root := describe(ocispec.MediaTypeImageManifest, raw)
	_, err = to.Push(ctx, root, bytes.NewReader(raw))
	return errors.Join(err, to.Tag(ctx, root, raw))
}

// pushLayer pushes a layer as gzip of Go's default level, which is what BuildKit pushes; temp is a file for it.
func pushLayer(
	ctx context.Context, to source.Destination, file, temp string,
) (diffID digest.Digest, blob ocispec.Descriptor, err error) {
	in, err := os.Open(file)
	if err != nil {
		return "", blob, err
	}
	defer in.Close()
	out, err := os.Create(temp)
	if err != nil {
		return "", blob, err
	}
	defer os.Remove(temp)
	defer func() { err = errors.Join(err, out.Close()) }()
	plain, packed := sha256.New(), sha256.New()
	w := gzip.NewWriter(io.MultiWriter(out, packed))
	_, err = io.Copy(io.MultiWriter(w, plain), in)
	if err := errors.Join(err, w.Close()); err != nil {
		return "", blob, err
	}
	size, err := out.Seek(0, io.SeekCurrent)
	if err != nil {
		return "", blob, err
	}
	blob = ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip, Size: size, Digest: digest.NewDigest(digest.SHA256, packed),
	}
	_, err = to.Push(ctx, blob, io.NewSectionReader(out, 0, size))
	return digest.NewDigest(digest.SHA256, plain), blob, err
}

func describe(mediaType string, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// versionLayer writes the layer that names a release.
func versionLayer(path, version string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	content := "KAIROS_VERSION=" + version + "\n"
	err = w.WriteHeader(&tar.Header{
		Name: layout.ImageRelease, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1767225600, 0),
	})
	if err == nil {
		_, err = io.WriteString(w, content)
	}
	return errors.Join(err, w.Close(), f.Close())
}
