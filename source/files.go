package source

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
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// openLayout opens DIR[:TAG][@DIGEST].
func openLayout(ctx context.Context, s string, o Options) (*Image, error) {
	dir, tag := splitTag(s)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	img, err := fromTree(ctx, root.FS(), tag, o)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	img.close = root.Close
	return img, nil
}

// openArchive opens FILE[:TAG], a tar with an OCI layout or what an old `docker save` wrote.
func openArchive(ctx context.Context, s string, o Options) (*Image, error) {
	name, tag := splitTag(s)
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	tree, err := tarTree(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the archive: %w", err), f.Close())
	}
	img, err := fromTree(ctx, tree, tag, o)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	img.close = f.Close
	return img, nil
}

// splitTag takes PATH:TAG or PATH@DIGEST apart.
func splitTag(s string) (name, tag string) {
	if i := strings.LastIndexByte(s, '@'); i > 0 {
		return s[:i], s[i:]
	}
	if _, err := os.Stat(s); err == nil {
		return s, "" // a path may have a colon in it
	}
	// A reference has colons and slashes of its own: cut after the path.
	for i := range len(s) {
		if s[i] != ':' {
			continue
		}
		if _, err := os.Stat(s[:i]); err == nil {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// fromTree reads an OCI layout or an old docker-archive.
func fromTree(ctx context.Context, tree fs.FS, tag string, o Options) (*Image, error) {
	b, err := fs.ReadFile(tree, "index.json")
	if errors.Is(err, fs.ErrNotExist) {
		return fromDockerArchive(tree, tag, o)
	}
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	manifests, err := tagged(index.Manifests, tag)
	if err != nil {
		return nil, err
	}
	desc, err := pick(manifests, o.Platform)
	if err != nil {
		return nil, err
	}
	return imageAt(ctx, treeBlobs{tree}, desc, o.Platform)
}

// tagged returns the descriptors with a tag, a reference or @digest; without one the
// descriptors tagged latest or, where there is only one image, that one.
func tagged(manifests []ocispec.Descriptor, tag string) ([]ocispec.Descriptor, error) {
	want := tag
	if want == "" {
		want = "latest"
	}
	var found []ocispec.Descriptor
	names := map[string]bool{}
	for _, m := range manifests {
		if !images.IsManifestType(m.MediaType) && !images.IsIndexType(m.MediaType) {
			continue
		}
		short, full := m.Annotations[ocispec.AnnotationRefName], m.Annotations[images.AnnotationImageName]
		names[short+full] = true
		if "@"+m.Digest.String() == want || short == want || full == want || full != "" && full == normalized(want) {
			found = append(found, m)
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case tag == "" && len(names) == 1:
		return manifests, nil
	case tag == "":
		return nil, fmt.Errorf("it holds %d images, none of them tagged latest: add :TAG", len(names))
	default:
		return nil, fmt.Errorf("it holds no image tagged %q", tag)
	}
}

func normalized(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.TagNameOnly(named).String()
}

// fromDockerArchive reads manifest.json of `docker save` before Docker 25.
func fromDockerArchive(tree fs.FS, tag string, o Options) (*Image, error) {
	b, err := fs.ReadFile(tree, "manifest.json")
	if err != nil {
		return nil, errors.New("it has neither index.json (OCI layout) nor manifest.json (docker save)")
	}
	var manifests []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(b, &manifests); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	for _, m := range manifests {
		if tag == "" && len(manifests) > 1 {
			return nil, fmt.Errorf("it holds %d images: add :REF", len(manifests))
		}
		if tag != "" && !hasTag(m.RepoTags, tag) {
			continue
		}
		config, err := fs.ReadFile(tree, path.Clean(m.Config))
		if err != nil {
			return nil, fmt.Errorf("config: %w", err)
		}
		var layers []opener
		for _, name := range m.Layers {
			layers = append(layers, func(context.Context) (io.ReadCloser, error) { return tree.Open(path.Clean(name)) })
		}
		return assemble(config, layers, o.Platform)
	}
	return nil, fmt.Errorf("it holds no image tagged %q", tag)
}

func hasTag(tags []string, want string) bool {
	for _, t := range tags {
		if t == want || normalized(t) == normalized(want) {
			return true
		}
	}
	return false
}

// treeBlobs reads blobs/<algorithm>/<hex>.
type treeBlobs struct{ fs.FS }

func (t treeBlobs) open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, err
	}
	return t.Open(path.Join("blobs", desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
}

// tarTree shows the regular files of a tar, and its links to them, without unpacking it.
func tarTree(f *os.File) (fs.FS, error) {
	tree := tarFS{file: f, entries: map[string]tarEntry{}}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return tree, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "/"))
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			tree.entries[name] = tarEntry{info: h.FileInfo(), at: at, size: h.Size}
		case tar.TypeSymlink: // docker save links layers that are equal
			if e, ok := tree.entries[path.Join(path.Dir(name), h.Linkname)]; ok {
				tree.entries[name] = e
			}
		case tar.TypeLink:
			if e, ok := tree.entries[path.Clean(h.Linkname)]; ok {
				tree.entries[name] = e
			}
		}
	}
}

type tarFS struct {
	file    io.ReaderAt
	entries map[string]tarEntry
}

type tarEntry struct {
	info     fs.FileInfo
	at, size int64
}

func (t tarFS) Open(name string) (fs.File, error) {
	e, ok := t.entries[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return tarFile{io.NewSectionReader(t.file, e.at, e.size), e.info}, nil
}

type tarFile struct {
	*io.SectionReader
	info fs.FileInfo
}

func (f tarFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f tarFile) Close() error               { return nil }
