package node

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// files are the files of an image layout, in a folder or in a tar.
type files interface {
	open(name string) (io.ReaderAt, int64, io.Closer, error)
	Close() error
}

// folder is an image layout in a folder.
type folder string

func (f folder) Close() error { return nil }

func (f folder) open(name string) (io.ReaderAt, int64, io.Closer, error) {
	file, err := os.Open(filepath.Join(string(f), filepath.FromSlash(name)))
	if err != nil {
		return nil, 0, nil, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, 0, nil, err
	}
	return file, info.Size(), file, nil
}

// archive is an image layout in a tar, which is read where it lies.
type archive struct {
	file  *os.File
	parts map[string]*io.SectionReader
}

func openArchive(name string) (*archive, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	a := &archive{file: file, parts: map[string]*io.SectionReader{}}
	links := map[string]string{}
	for r := tar.NewReader(file); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			file.Close()
			return nil, fmt.Errorf("%s: %w: want an uncompressed tar archive", name, err)
		}
		at, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			file.Close()
			return nil, err
		}
		switch entry := path.Clean(h.Name); h.Typeflag {
		case tar.TypeReg:
			a.parts[entry] = io.NewSectionReader(file, at, h.Size)
		case tar.TypeSymlink:
			links[entry] = path.Join(path.Dir(entry), h.Linkname)
		case tar.TypeLink:
			links[entry] = path.Clean(h.Linkname)
		}
	}
	for from, to := range links { // older docker save links equal layers
		if p := a.parts[to]; p != nil {
			a.parts[from] = p
		}
	}
	return a, nil
}

func (a *archive) Close() error { return a.file.Close() }

func (a *archive) open(name string) (io.ReaderAt, int64, io.Closer, error) {
	p := a.parts[path.Clean(name)]
	if p == nil {
		return nil, 0, nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return p, p.Size(), io.NopCloser(nil), nil
}

func readAll(f files, name string) ([]byte, error) {
	r, size, c, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if size > 16<<20 {
		return nil, fmt.Errorf("%s: %d bytes: too large", name, size)
	}
	return io.ReadAll(io.NewSectionReader(r, 0, size))
}

// layoutProvider gives the blobs of an OCI image layout.
type layoutProvider struct{ files }

func (p layoutProvider) ReaderAt(_ context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, err
	}
	r, size, c, err := p.open("blobs/" + desc.Digest.Algorithm().String() + "/" + desc.Digest.Encoded())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return &sizedReader{r, c, size}, nil
}

type sizedReader struct {
	io.ReaderAt
	io.Closer
	size int64
}

func (s *sizedReader) Size() int64 { return s.size }

// have stands for fetching where all is here already.
func have(context.Context, ocispec.Descriptor) error { return nil }

// layoutImage reads an image out of an OCI image layout.
func layoutImage(ctx context.Context, f files, ref, tag, arch string) (*image, error) {
	b, err := readAll(f, "index.json")
	if err != nil {
		return nil, fmt.Errorf("%s is no OCI image layout: %w", ref, err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	var names []string
	var found []ocispec.Descriptor
	for _, d := range index.Manifests {
		if !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType) {
			continue
		}
		name := d.Annotations[ocispec.AnnotationRefName]
		names = append(names, name)
		if tag == "" || name == tag || strings.HasSuffix(d.Annotations[images.AnnotationImageName], ":"+tag) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0:
		return nil, fmt.Errorf("%s has no image %q, but %q", ref, tag, names)
	case len(found) > 1 && !samePlatforms(found):
		return nil, fmt.Errorf("%s has %d images (%q): say which, by adding :TAG", ref, len(found), names)
	}
	top := found[0]
	for _, d := range found { // several platforms side by side
		if d.Platform != nil && d.Platform.Architecture == arch {
			top = d
		}
	}
	return readImage(ctx, ref, top, arch, layoutProvider{f}, have)
}

// samePlatforms says whether descriptors are one image for several platforms.
func samePlatforms(d []ocispec.Descriptor) bool {
	return !slices.ContainsFunc(d, func(x ocispec.Descriptor) bool { return x.Platform == nil })
}

// dockerImage reads an image out of what `docker save` writes.
func dockerImage(f files, ref, tag, arch string) (*image, error) {
	b, err := readAll(f, "manifest.json")
	if err != nil {
		return nil, fmt.Errorf("%s is not what docker save writes: %w", ref, err)
	}
	var all []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	var names []string
	found := -1
	for n, m := range all {
		names = append(names, m.RepoTags...)
		matches := slices.ContainsFunc(m.RepoTags, func(t string) bool { return t == tag || strings.HasSuffix(t, ":"+tag) })
		if tag == "" && len(all) == 1 || tag != "" && matches {
			found = n
		}
	}
	if found < 0 {
		return nil, fmt.Errorf("%s has the images %q: say which, by adding :TAG", ref, names)
	}
	m := all[found]
	config, err := readAll(f, m.Config)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	i := &image{ref: ref}
	if err := i.readConfig(config, arch); err != nil {
		return nil, err
	}
	if len(i.layers) != len(m.Layers) {
		return nil, fmt.Errorf("the image's config names %d layers, the archive has %d: it is damaged", len(i.layers), len(m.Layers))
	}
	for n, name := range m.Layers {
		r, size, c, err := f.open(name)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", i.layers[n].diffID, err)
		}
		c.Close()
		i.layers[n].size = size
		i.layers[n].open = func(context.Context) (io.ReadCloser, error) {
			return compression.DecompressStream(io.NewSectionReader(r, 0, size))
		}
	}
	return i, nil
}
