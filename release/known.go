package release

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
)

// Listed is a repository whose other images can be found.
type Listed interface {
	Repository
	Tags(ctx context.Context) ([]string, error)
	Resolve(ctx context.Context, tag string) (ocispec.Descriptor, error)
	Ranged
}

// Known are the blobs of the releases that a repository has.
type Known struct{ blobs map[knownKey]knownBlob }

type knownKey struct {
	diffID layout.Digest
	format layout.Format
}

type knownBlob struct {
	layer layout.Layer
	desc  ocispec.Descriptor
}

// maxKnown bounds how many tags are looked at for blobs, the highest versions first.
const maxKnown = 12

// Previous finds the blobs of the repository's other releases. They are believed like the images of the repository.
// What cannot be read is left out: then its layers are converted again.
func Previous(ctx context.Context, from Listed) (*Known, error) {
	k := &Known{blobs: map[knownKey]knownBlob{}}
	tags, err := from.Tags(ctx)
	if err != nil {
		return k, err
	}
	tags = slices.DeleteFunc(tags, func(t string) bool { return strings.HasPrefix(t, "sha256-") })
	slices.SortFunc(tags, func(a, b string) int { return natural(b, a) })
	for _, tag := range tags[:min(len(tags), maxKnown)] {
		desc, err := from.Resolve(ctx, tag)
		if err != nil {
			continue
		}
		for _, m := range manifests(ctx, from, desc) {
			if a, err := Find(ctx, from, layout.Digest(m.Digest)); err == nil {
				k.Add(a)
			}
		}
	}
	return k, nil
}

// manifests are those of an index, or the one that is none.
func manifests(ctx context.Context, from image.Blobs, desc ocispec.Descriptor) []ocispec.Descriptor {
	if !images.IsIndexType(desc.MediaType) {
		return []ocispec.Descriptor{desc}
	}
	var index ocispec.Index
	b, err := image.ReadBlob(ctx, from, desc)
	if err != nil || json.Unmarshal(b, &index) != nil {
		return nil
	}
	var all []ocispec.Descriptor
	for _, m := range index.Manifests {
		if images.IsManifestType(m.MediaType) && m.Platform != nil && m.Platform.OS == "linux" && len(all) < maxKnown {
			all = append(all, m)
		}
	}
	return all
}

// Add adds the blobs of a release.
func (k *Known) Add(a Artifact) {
	if a.Release.Format == (layout.Format{}) {
		return
	}
	for i, l := range a.Release.Layers {
		k.blobs[knownKey{l.DiffID, a.Release.Format}] = knownBlob{l, a.Blobs[i]}
	}
}

// Descriptor returns the blob of a layer in a format.
func (k *Known) Descriptor(l layout.Layer, f layout.Format) (ocispec.Descriptor, bool) {
	b, ok := k.blobs[knownKey{l.DiffID, f}]
	return b.desc, ok && b.layer == l
}

// Blob returns the blob of a layer in a format, read where it is; nil where none is known.
func (k *Known) Blob(ctx context.Context, from Listed, diffID layout.Digest, f layout.Format) *image.Blob {
	b, ok := k.blobs[knownKey{diffID, f}]
	if !ok {
		return nil
	}
	r := &remote{ctx: ctx, from: from, desc: b.desc, kept: &pieces{}}
	if _, err := r.ReadAt(make([]byte, 1), 0); err != nil {
		return nil // a registry without ranges, or the blob is gone
	}
	return &image.Blob{Layer: b.layer, ReaderAt: r}
}

// natural compares names with numbers in them: v1.9 comes before v1.10.
func natural(a, b string) int {
	for a != "" && b != "" {
		x, restA := number(a)
		y, restB := number(b)
		if restA != a && restB != b {
			if x != y {
				if x < y {
					return -1
				}
				return 1
			}
			a, b = restA, restB
			continue
		}
		if a[0] != b[0] {
			return strings.Compare(a[:1], b[:1])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func number(s string) (n uint64, rest string) {
	i := 0
	for i < len(s) && i < 18 && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	n, _ = strconv.ParseUint(s[:i], 10, 64)
	return n, s[i:]
}
