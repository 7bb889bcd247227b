package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
)

// openLayout opens DIR[:TAG][@DIGEST].
func openLayout(ctx context.Context, s string, o opening) (*Image, error) {
	tree, tag, closer, err := layoutTree(s)
	if err != nil {
		return nil, err
	}
	return fromTree(ctx, tree, tag, closer, o)
}

func layoutTree(s string) (tree fs.FS, tag string, closer io.Closer, err error) {
	dir, tag := splitTag(s)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, "", nil, err
	}
	return root.FS(), tag, root, nil
}

// openArchive opens FILE[:TAG], a tar with an OCI layout or what an old `docker save` wrote.
func openArchive(ctx context.Context, s string, o opening) (*Image, error) {
	tree, tag, closer, err := archiveTree(s)
	if err != nil {
		return nil, err
	}
	return fromTree(ctx, tree, tag, closer, o)
}

func archiveTree(s string) (tree fs.FS, tag string, closer io.Closer, err error) {
	name, tag := splitTag(s)
	f, err := os.Open(name)
	if err != nil {
		return nil, "", nil, err
	}
	if tree, err = tarTree(f); err != nil {
		return nil, "", nil, errors.Join(
			fmt.Errorf("read the archive: %w: want a tar archive that is not compressed", err),
			f.Close(),
		)
	}
	return tree, tag, f, nil
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
func fromTree(ctx context.Context, tree fs.FS, tag string, closer io.Closer, o opening) (_ *Image, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closer.Close())
		}
	}()
	index, err := readIndex(tree)
	if errors.Is(err, fs.ErrNotExist) {
		img, err := fromDockerArchive(tree, tag, o)
		if err != nil {
			return nil, err
		}
		return &Image{Image: *img, close: closer.Close}, nil
	}
	if err != nil {
		return nil, err
	}
	descs, err := tagged(index, tag)
	if err != nil {
		return nil, err
	}
	img, err := image.Read(ctx, treeBlobs{tree}, o.image, descs...)
	if err != nil {
		return nil, err
	}
	return &Image{Image: *img, Repository: ociTree{treeBlobs{tree}, index}, close: closer.Close}, nil
}

func readIndex(tree fs.FS) ([]ocispec.Descriptor, error) {
	b, err := bounded.ReadFile(tree, "index.json", image.MaxMetadata)
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	return index.Manifests, nil
}

// tagged returns the descriptors with a tag, a reference or @digest; without one the
// descriptors tagged latest or, where there is only one image, that one.
func tagged(manifests []ocispec.Descriptor, tag string) ([]ocispec.Descriptor, error) {
	want := tag
	if want == "" {
		want = "latest"
	}
	// Signatures of cosign's look like images, but for their names.
	manifests = slices.DeleteFunc(slices.Clone(manifests), func(m ocispec.Descriptor) bool {
		return layout.IsCosignTag(m.Annotations[ocispec.AnnotationRefName])
	})
	var found []ocispec.Descriptor
	names := map[string]bool{}
	for _, m := range manifests {
		if !images.IsManifestType(m.MediaType) && !images.IsIndexType(m.MediaType) || image.Artifact(m) {
			continue
		}
		short, full := m.Annotations[ocispec.AnnotationRefName], m.Annotations[images.AnnotationImageName]
		names[short+full] = true
		if "@"+m.Digest.String() == want || short == want || hasTag([]string{full}, want) {
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
func fromDockerArchive(tree fs.FS, tag string, o opening) (*image.Image, error) {
	b, err := bounded.ReadFile(tree, "manifest.json", image.MaxMetadata)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("it has neither index.json (OCI layout) nor manifest.json (docker save)")
	}
	if err != nil {
		return nil, err
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
		config, err := bounded.ReadFile(tree, path.Clean(m.Config), image.MaxMetadata)
		if err != nil {
			return nil, fmt.Errorf("config: %w", err)
		}
		if err := checkNamed(m.Config, config); err != nil {
			return nil, err
		}
		var layers []image.StoredLayer
		for _, name := range m.Layers {
			info, err := fs.Stat(tree, path.Clean(name))
			if err != nil {
				return nil, fmt.Errorf("layer: %w", err)
			}
			layers = append(
				layers,
				image.StoredLayer{Size: info.Size(), Open: func(context.Context) (io.ReadCloser, error) {
					return tree.Open(path.Clean(name))
				}},
			)
		}
		return image.New(config, layers, o.image)
	}
	return nil, fmt.Errorf("it holds no image tagged %q", tag)
}

// checkNamed checks a config whose name is its digest: HEX.json or blobs/sha256/HEX, as `docker save` of every age
// writes it, or sha256:HEX, as go-containerregistry does.
func checkNamed(name string, content []byte) error {
	hex := strings.TrimPrefix(strings.TrimSuffix(path.Base(name), ".json"), "sha256:")
	want, err := layout.ParseDigest("sha256:" + hex)
	if err != nil {
		return nil // another name: some programs write config.json
	}
	if got := digest.FromBytes(content); string(got) != string(want) {
		return fmt.Errorf("config %s: its content is another one, %s: it is damaged", name, got)
	}
	return nil
}

// hasTag says whether one of the references is meant: by its full name, by one as people write
// it, or by its tag alone.
func hasTag(refs []string, want string) bool {
	for _, r := range refs {
		if r == "" {
			continue
		}
		bare := !strings.ContainsAny(want, "/:@")
		if r == want || normalized(r) == normalized(want) || bare && strings.HasSuffix(r, ":"+want) {
			return true
		}
	}
	return false
}

// treeBlobs reads blobs/<algorithm>/<hex>.
type treeBlobs struct{ fs.FS }

// Open opens a blob.
func (t treeBlobs) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, err
	}
	return t.FS.Open(path.Join("blobs", desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
}
