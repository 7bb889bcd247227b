package release

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
)

// Origin is a place that images are copied from.
type Origin interface {
	Repository
	// Resolve returns what a tag names. The error is errdefs.ErrNotFound where there is none.
	Resolve(ctx context.Context, tag string) (ocispec.Descriptor, error)
}

// Mirror is a place that images are copied to.
type Mirror interface {
	Target
	// Tag gives an index or a manifest its name there.
	Tag(ctx context.Context, desc ocispec.Descriptor, manifest []byte) error
	// TagAs gives a manifest another tag there.
	TagAs(ctx context.Context, tag string, desc ocispec.Descriptor, manifest []byte) error
}

// Copied says what [Copy] did.
type Copied struct {
	Uploaded int64 // bytes of blobs and manifests
	Shared   int64 // bytes of those that were there
	Images   int   // manifests of images, as a rule one for each platform
	Releases int   // artifacts of releases, one more for each set of signatures
	// Signatures are those of the images themselves: tags of cosign's, bundles of sigstore's, and notation's.
	Signatures int
}

// CopyOptions of [Copy]. The zero value works.
type CopyOptions struct {
	// Progress is called when a blob begins to be copied, and what it returns when that ends.
	Progress func(step string) func(error) error
}

// What is copied of one reference: more is no image's.
const (
	maxCopyDepth = 4
	maxCopied    = 256 // indexes and manifests
)

// Copy copies the image that a descriptor names, all platforms of an index, the releases beside it with their
// signatures, and the signatures of image and index by cosign, sigstore and notation, byte for byte: nothing is
// converted, and every digest stays. What the mirror has is not read. Each blob is compared with its digest. The name
// comes last: who finds the image finds its releases. Without a release, the error is [ErrNone], and there is no
// name.
func Copy(ctx context.Context, from Origin, root ocispec.Descriptor, to Mirror, o CopyOptions) (Copied, error) {
	c := &copier{from: from, to: to, options: o, seen: map[digest.Digest]bool{}}
	b, err := c.manifest(ctx, root, 0)
	if err == nil && c.done.Releases == 0 {
		err = ErrNone
	}
	if err == nil {
		err = to.Tag(ctx, root, b)
	}
	return c.done, err
}

type copier struct {
	from    Origin
	to      Mirror
	options CopyOptions
	seen    map[digest.Digest]bool
	looked  int
	done    Copied
}

// manifest copies an index or a manifest with all that it names.
func (c *copier) manifest(ctx context.Context, d ocispec.Descriptor, depth int) ([]byte, error) {
	if c.looked++; c.looked > maxCopied || depth > maxCopyDepth {
		return nil, fmt.Errorf("it has more than %d indexes and manifests, or they lie deeper than %d",
			maxCopied, maxCopyDepth)
	}
	b, err := image.ReadBlob(ctx, c.from, d)
	if err != nil {
		return nil, err
	}
	var m struct {
		ArtifactType string               `json:"artifactType"`
		Config       ocispec.Descriptor   `json:"config"`
		Layers       []ocispec.Descriptor `json:"layers"`
		Manifests    []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	switch {
	case images.IsIndexType(d.MediaType):
		for _, child := range m.Manifests {
			if c.seen[child.Digest] {
				continue
			}
			if images.IsIndexType(child.MediaType) || images.IsManifestType(child.MediaType) {
				_, err = c.manifest(ctx, child, depth+1)
			} else {
				err = c.blob(ctx, child)
			}
			if err != nil {
				return nil, err
			}
		}
	case images.IsManifestType(d.MediaType):
		for _, blob := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
			if err := c.blob(ctx, blob); err != nil {
				return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
			}
		}
	default:
		return nil, fmt.Errorf("%s has the type %s: it is no container image", d.Digest, d.MediaType)
	}
	if err := c.push(ctx, plain(d), bytes.NewReader(b)); err != nil {
		return nil, err
	}
	c.seen[d.Digest] = true
	if err := c.signatures(ctx, d); err != nil {
		return nil, fmt.Errorf("signatures of %s: %w", d.Digest, err)
	}
	if images.IsManifestType(d.MediaType) && images.IsConfigType(m.Config.MediaType) && !image.Artifact(d) &&
		!image.Artifact(ocispec.Descriptor{ArtifactType: m.ArtifactType}) {
		c.done.Images++
		n, err := c.referrers(ctx, d, layout.ReleaseType)
		c.done.Releases += n
		return b, err
	}
	return b, nil
}

// signatures copies those of an image or an index.
func (c *copier) signatures(ctx context.Context, of ocispec.Descriptor) error {
	for _, kind := range []string{layout.BundleType, layout.NotationType} {
		n, err := c.referrers(ctx, of, kind)
		if c.done.Signatures += n; err != nil {
			return err
		}
	}
	tag := layout.Digest(of.Digest).CosignTag()
	d, err := c.from.Resolve(ctx, tag)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	b, err := image.ReadBlob(ctx, c.from, d)
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	if err := c.artifact(ctx, m); err != nil {
		return err
	}
	if err := c.push(ctx, plain(d), bytes.NewReader(b)); err != nil {
		return err
	}
	c.done.Signatures++
	return c.to.TagAs(ctx, tag, plain(d), b)
}

// referrers copies the artifacts of a type beside an image, all of them: each may have other signatures.
func (c *copier) referrers(ctx context.Context, of ocispec.Descriptor, kind string) (n int, err error) {
	descs, err := c.from.Referrers(ctx, layout.Digest(of.Digest), kind)
	if err != nil {
		return 0, err
	}
	for _, d := range descs[:min(len(descs), maxReferrers)] {
		d.MediaType = ocispec.MediaTypeImageManifest
		b, err := image.ReadBlob(ctx, c.from, d)
		if err != nil {
			return n, err
		}
		m, err := parseReferrer(b, kind)
		if errors.Is(err, errOther) {
			continue
		}
		if err != nil {
			return n, err
		}
		if m.Subject.Digest != of.Digest {
			return n, fmt.Errorf("artifact %s is beside %s, and of %s", d.Digest, of.Digest, m.Subject.Digest)
		}
		if err := c.artifact(ctx, m); err != nil {
			return n, fmt.Errorf("artifact %s: %w", d.Digest, err)
		}
		if _, err := c.to.PushReferrer(ctx, layout.Digest(of.Digest), kind, b); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// parseReferrer reads the manifest of what is beside an image.
func parseReferrer(b []byte, kind string) (m ocispec.Manifest, err error) {
	if kind == layout.ReleaseType {
		return parseManifest(b)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, err
	}
	// Signatures that are older than the field have their type as the config's.
	if m.Subject == nil || m.ArtifactType != kind && m.Config.MediaType != kind {
		return m, errOther
	}
	return m, nil
}

// artifact copies what a manifest names.
func (c *copier) artifact(ctx context.Context, m ocispec.Manifest) error {
	for _, blob := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := c.blob(ctx, blob); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) blob(ctx context.Context, d ocispec.Descriptor) error {
	if c.seen[d.Digest] {
		return nil
	}
	if len(d.URLs) > 0 {
		return fmt.Errorf("blob %s is not with the image but at %q: push the image with it", d.Digest, d.URLs[0])
	}
	from := &lazy{open: func() (io.ReadCloser, error) { return image.OpenBlob(ctx, c.from, d) }}
	done := func(err error) error { return err }
	if c.options.Progress != nil {
		from.begin = func() { done = c.options.Progress(fmt.Sprintf("copying %s, %d bytes", d.Digest, d.Size)) }
	}
	err := c.push(ctx, plain(d), from)
	if err = done(errors.Join(err, from.Close())); err != nil {
		return err
	}
	c.seen[d.Digest] = true
	return nil
}

func (c *copier) push(ctx context.Context, d ocispec.Descriptor, from io.Reader) error {
	added, err := c.to.Push(ctx, d, from)
	switch {
	case err != nil:
		return err
	case added:
		c.done.Uploaded += d.Size
	default:
		c.done.Shared += d.Size
	}
	return nil
}

// lazy is a blob that is asked for when its first byte is.
type lazy struct {
	open  func() (io.ReadCloser, error)
	begin func()
	from  io.ReadCloser
}

func (l *lazy) Read(p []byte) (n int, err error) {
	if l.from == nil {
		if l.from, err = l.open(); err != nil {
			return 0, err
		}
		if l.begin != nil {
			l.begin()
		}
	}
	return l.from.Read(p)
}

func (l *lazy) Close() error {
	if l.from == nil {
		return nil
	}
	return l.from.Close()
}
