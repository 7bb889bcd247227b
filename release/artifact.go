// Package release is a release as an OCI artifact: made once, found beside its image, and taken from there layer by
// layer.
//
//	image manifest ◀── subject ── manifest, artifactType application/vnd.kairos.release.v2+json
//	                                ├─ config    the empty object, {}
//	                                ├─ layers[0] release.json
//	                                ├─ layers[i] the blob of the release's layer i, from 1 on
//	                                └─ behind them its signatures, and those of the boot files, where there are any
//
// docs/release-format.md describes each byte. Sources: OCI image specification 1.1, "Guidelines for Artifact Usage";
// OCI distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema".
package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// Artifact is a release in a registry, or on its way there.
type Artifact struct {
	Release layout.Release
	// Blobs are those of the release's layers, as OCI blobs: type, digest and size.
	Blobs []ocispec.Descriptor
	// Subject is the image's manifest.
	Subject ocispec.Descriptor
	// Signatures is the blob of the release's signatures; zero where it has none. See [Signatures].
	Signatures ocispec.Descriptor
	// Boot is the blob of the signatures of the image's boot files; zero where it has none. See [BootSignatures].
	Boot ocispec.Descriptor
	// Manifest is the artifact's own, where it was read; zero in one that is made.
	Manifest ocispec.Descriptor
}

// Marshal returns the bytes of the artifact's manifest and of its record.
func (a Artifact) Marshal() (manifest, record []byte, err error) {
	if err := a.check(); err != nil {
		return nil, nil, err
	}
	if record, err = a.Release.Marshal(); err != nil {
		return nil, nil, err
	}
	empty := ocispec.DescriptorEmptyJSON
	layers := []ocispec.Descriptor{describe(layout.ReleaseType, record)}
	for _, b := range a.Blobs {
		layers = append(layers, plain(b))
	}
	if a.Signatures.Digest != "" {
		layers = append(layers, plain(a.Signatures))
	}
	if a.Boot.Digest != "" {
		layers = append(layers, plain(a.Boot))
	}
	subject := plain(a.Subject)
	manifest, err = json.Marshal(ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: layout.ReleaseType,
		Config:       plain(empty),
		Layers:       layers,
		Subject:      &subject,
	})
	return manifest, record, err
}

// RecordOf returns the descriptor of the record that an artifact's manifest names.
func RecordOf(manifest []byte) (ocispec.Descriptor, error) {
	m, err := parseManifest(manifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return m.Layers[0], nil
}

// errOther says that a manifest is that of something else.
var errOther = errors.New("no release artifact")

func parseManifest(b []byte) (m ocispec.Manifest, err error) {
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("release artifact: %w", err)
	}
	switch {
	case m.ArtifactType != layout.ReleaseType:
		return m, fmt.Errorf("%w: its type is %q, want %s", errOther, m.ArtifactType, layout.ReleaseType)
	case m.Subject == nil:
		return m, errors.New("release artifact: it has no subject")
	case len(m.Layers) == 0 || m.Layers[0].MediaType != layout.ReleaseType || m.Layers[0].Size > layout.MaxReleaseSize:
		return m, errors.New("release artifact: its first layer is no release.json")
	}
	return m, nil
}

// Parse reads an artifact's manifest and record. What is added behind the layers' blobs is ignored, but for signatures
// directly behind them, and those of boot files behind these or in their place.
func Parse(manifest, record []byte) (a Artifact, err error) {
	m, err := parseManifest(manifest)
	if err != nil {
		return a, err
	}
	if d := m.Layers[0]; d.Digest != digest.FromBytes(record) {
		return a, fmt.Errorf("release artifact: its release.json is not the blob %s", d.Digest)
	}
	if a.Release, err = layout.ParseRelease(record); err != nil {
		return a, err
	}
	if len(m.Layers) <= len(a.Release.Layers) {
		return a, fmt.Errorf("release artifact: %d layers, and %d blobs", len(a.Release.Layers), len(m.Layers)-1)
	}
	a.Subject = plain(*m.Subject)
	for _, d := range m.Layers[1 : 1+len(a.Release.Layers)] {
		a.Blobs = append(a.Blobs, plain(d))
	}
	more := m.Layers[1+len(a.Release.Layers):]
	for _, extra := range []struct {
		kind extra
		to   *ocispec.Descriptor
	}{{signatures, &a.Signatures}, {bootSignatures, &a.Boot}} {
		if len(more) > 0 && extra.kind.check(more[0]) == nil {
			*extra.to, more = plain(more[0]), more[1:]
		}
	}
	return a, a.check()
}

func (a Artifact) check() error {
	r := a.Release
	if r.V1 {
		return fmt.Errorf("release artifact %s: its record is in the first format", r.ID())
	}
	if string(r.Manifest) != a.Subject.Digest.String() {
		return fmt.Errorf(
			"release artifact %s: it is of the manifest %s, and beside %s", r.ID(), r.Manifest, a.Subject.Digest,
		)
	}
	if len(a.Blobs) != len(r.Layers) {
		return fmt.Errorf("release artifact %s: %d layers, and %d blobs", r.ID(), len(r.Layers), len(a.Blobs))
	}
	for i, b := range a.Blobs {
		if _, err := layout.ParseDigest(b.Digest.String()); err != nil {
			return fmt.Errorf("release artifact %s: blob %d: %w", r.ID(), i+1, err)
		}
		if want := verity.TotalSize(r.Layers[i].Size); b.MediaType != layout.ReleaseBlobType || b.Size != want {
			return fmt.Errorf("release artifact %s: blob %d has the type %s and %d bytes: want %s and %d",
				r.ID(), i+1, b.MediaType, b.Size, layout.ReleaseBlobType, want)
		}
	}
	for _, one := range []struct {
		kind extra
		d    ocispec.Descriptor
	}{{signatures, a.Signatures}, {bootSignatures, a.Boot}} {
		if one.d.Digest == "" {
			continue
		}
		if err := one.kind.check(one.d); err != nil {
			return fmt.Errorf("release artifact %s: %w", r.ID(), err)
		}
	}
	return nil
}

// extra is a kind of blob that may be behind those of the layers.
type extra struct {
	name, mediaType string
	limit           int64 // bytes
}

var (
	signatures     = extra{"signatures", layout.SignaturesType, layout.MaxSignaturesSize}
	bootSignatures = extra{
		"signatures of boot files", layout.BootSignaturesType, layout.MaxBootSignaturesSize,
	}
)

func (e extra) check(d ocispec.Descriptor) error {
	if _, err := layout.ParseDigest(d.Digest.String()); err != nil {
		return fmt.Errorf("%s: %w", e.name, err)
	}
	if d.MediaType != e.mediaType || d.Size <= 0 || d.Size > e.limit {
		return fmt.Errorf("%s: the type %s and %d bytes: want %s and at most %d",
			e.name, d.MediaType, d.Size, e.mediaType, e.limit)
	}
	return nil
}

// Fits says whether the release is the one of an image: of its manifest and config, with its layers in their order
// and at most one more, the one that sets directories right.
func (a Artifact) Fits(manifest, config layout.Digest, arch string, diffIDs []layout.Digest) error {
	r := a.Release
	layers := make([]layout.Digest, len(r.Layers))
	for i, l := range r.Layers {
		layers[i] = l.DiffID
	}
	switch {
	case r.Manifest != manifest:
		return fmt.Errorf("release %s is of the manifest %s", r.ID(), r.Manifest)
	case r.Config != config:
		return fmt.Errorf("release %s is of the config %s, and the image has %s", r.ID(), r.Config, config)
	case r.Arch != arch:
		return fmt.Errorf("release %s is for %s, and the image for %s", r.ID(), r.Arch, arch)
	case len(layers) < len(diffIDs), len(layers) > len(diffIDs)+1, !slices.Equal(layers[:len(diffIDs)], diffIDs):
		return fmt.Errorf("release %s has other layers than the image", r.ID())
	}
	return nil
}

func describe(mediaType string, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// plain is a descriptor without what does not say which bytes are meant.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// Equal says whether two artifacts are the same bytes.
func (a Artifact) Equal(b Artifact) bool {
	am, ar, aerr := a.Marshal()
	bm, br, berr := b.Marshal()
	return aerr == nil && berr == nil && bytes.Equal(am, bm) && bytes.Equal(ar, br)
}
