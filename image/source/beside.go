package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/layout"
)

// Repository is where an image is, with what refers to it: a registry's, or an OCI layout.
type Repository interface {
	image.Blobs
	// Referrers lists the manifests of a type whose subject has this digest; none is no error. Some registries do not
	// say of which type one is: those are listed, too.
	Referrers(ctx context.Context, subject layout.Digest, artifactType string) ([]ocispec.Descriptor, error)
	// Resolve returns what a tag of the repository names. The error is errdefs.ErrNotFound where there is none.
	Resolve(ctx context.Context, tag string) (ocispec.Descriptor, error)
	// Range returns n bytes of a blob from off on, unchecked.
	Range(ctx context.Context, desc ocispec.Descriptor, off, n int64) (io.ReadCloser, error)
}

// Found is what a reference names, before an image is chosen.
type Found struct {
	Repository
	// Roots are the indexes and manifests that it names.
	Roots []ocispec.Descriptor
	close func() error
}

// Close lets go of the source.
func (f *Found) Close() error { return f.close() }

// Find finds what a reference names in a registry, an OCI layout or an archive of one.
func Find(ctx context.Context, r Ref, o Options) (_ *Found, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("image %s: %w", r, err)
		}
	}()
	var tree fs.FS
	var tag string
	var closer io.Closer
	switch r.Kind {
	case Registry:
		repository, desc, err := registry.Find(ctx, r.Name, o.Registry)
		if err != nil {
			return nil, err
		}
		return &Found{repository, []ocispec.Descriptor{desc}, func() error { return nil }}, nil
	case OCILayout:
		tree, tag, closer, err = layoutTree(r.Name)
	case OCIArchive:
		tree, tag, closer, err = archiveTree(r.Name)
	default:
		return nil, fmt.Errorf("want one in a registry, an oci-layout: or an oci-archive:")
	}
	if err != nil {
		return nil, err
	}
	index, err := readIndex(tree)
	if err != nil {
		return nil, errors.Join(err, closer.Close())
	}
	roots, err := tagged(index, tag)
	if err != nil {
		return nil, errors.Join(err, closer.Close())
	}
	return &Found{ociTree{treeBlobs{tree}, index}, roots, closer.Close}, nil
}

// ociTree is an OCI layout. What refers to an image is in its index by its type, or in an index with the name that the
// OCI distribution specification gives such a list ("Referrers Tag Schema").
type ociTree struct {
	treeBlobs
	index []ocispec.Descriptor
}

// maxReferrers bounds how many manifests are looked at for what refers to one.
const maxReferrers = 256

// Referrers implements Repository.
func (t ociTree) Referrers(
	ctx context.Context, subject layout.Digest, artifactType string,
) (all []ocispec.Descriptor, err error) {
	looked := 0
	for _, d := range t.index {
		switch {
		case images.IsIndexType(d.MediaType) &&
			d.Annotations[ocispec.AnnotationRefName] == strings.Replace(string(subject), ":", "-", 1):
			b, err := image.ReadBlob(ctx, t, d)
			if err != nil {
				return nil, fmt.Errorf("referrers of %s: %w", subject, err)
			}
			var list ocispec.Index
			if err := json.Unmarshal(b, &list); err != nil {
				return nil, fmt.Errorf("referrers of %s: %w", subject, err)
			}
			for _, m := range list.Manifests {
				if m.ArtifactType == artifactType || m.ArtifactType == "" {
					all = append(all, m)
				}
			}
		case images.IsManifestType(d.MediaType) && d.ArtifactType == artifactType && looked < maxReferrers:
			looked++
			b, err := image.ReadBlob(ctx, t, d)
			if err != nil {
				return nil, fmt.Errorf("referrers of %s: %w", subject, err)
			}
			var m ocispec.Manifest
			if json.Unmarshal(b, &m) == nil && m.Subject != nil && m.Subject.Digest.String() == string(subject) {
				all = append(all, d)
			}
		}
	}
	return all, nil
}

// Resolve implements Repository.
func (t ociTree) Resolve(_ context.Context, tag string) (ocispec.Descriptor, error) {
	for _, d := range t.index {
		if d.Annotations[ocispec.AnnotationRefName] == tag {
			return d, nil
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("the layout has no tag %q: %w", tag, errdefs.ErrNotFound)
}

// Range implements Repository.
func (t ociTree) Range(ctx context.Context, desc ocispec.Descriptor, off, n int64) (io.ReadCloser, error) {
	if off < 0 || n <= 0 || off > desc.Size-n {
		return nil, fmt.Errorf("blob %s: %d bytes from %d on, and it has %d", desc.Digest, n, off, desc.Size)
	}
	f, err := t.Open(ctx, desc)
	if err != nil {
		return nil, err
	}
	at, ok := f.(io.ReaderAt)
	if !ok {
		f.Close()
		return nil, fmt.Errorf("blob %s: %s cannot be read by parts", desc.Digest, path.Base(desc.Digest.Encoded()))
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(at, off, n), f}, nil
}
