package layout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Release is one bootable version of the system: an image's layers, each named by its
// diffID and sealed by the root hash of its dm-verity tree.
//
// A release is identified by the image's *config* digest, not by its manifest's: the
// config names the uncompressed layers, so that the image has the same identity in a
// registry, in an archive, in an engine's store, and however it was compressed.
type Release struct {
	// Version is KAIROS_VERSION of the image, for people.
	Version string `json:"version"`
	// Image is the reference that the image was taken from, for people. May be empty.
	Image string `json:"image"`
	// Config is the digest of the image's config.
	Config Digest `json:"config"`
	// Arch is the image's architecture in OCI's words (amd64, arm64).
	Arch string `json:"arch"`
	// Labels are the image's labels io.kairos.*: what its boot files are made with, wherever
	// they have to be made anew. See [ReleaseLabels].
	Labels map[string]string `json:"labels,omitempty"`
	// Layers are ordered as in the image: the lowest first.
	Layers []Layer `json:"layers"`
}

// Layer names one blob of a release.
type Layer struct {
	DiffID Digest `json:"diffID"`
	// Size is the size of the EROFS image in bytes: a multiple of 4096, and the offset
	// in the blob at which the dm-verity superblock begins.
	Size int64 `json:"size"`
	// RootHash is the root of the dm-verity tree, 64 hex digits.
	RootHash string `json:"rootHash"`
}

// IDLength is the number of hex digits in a release's id.
const IDLength = 12

// MaxReleaseSize bounds the size of release.json in bytes. An image has at most 127
// layers in practice (overlay's and OCI engines' limits); each takes under 200 bytes.
const MaxReleaseSize = 256 << 10

// ID returns the release's id: the first 12 hex digits of the image's config digest.
func (r Release) ID() string { return ReleaseID(r.Config) }

// ReleaseID returns the id of the release made from the image with this config digest.
func ReleaseID(config Digest) string { return config.Hex()[:IDLength] }

// ReleaseLabels returns those of an image's labels that belong to its release.
func ReleaseLabels(image map[string]string) map[string]string {
	var labels map[string]string
	for k, v := range image {
		if strings.HasPrefix(k, "io.kairos.") {
			if labels == nil {
				labels = map[string]string{}
			}
			labels[k] = v
		}
	}
	return labels
}

// ValidID says whether s has the form of a release's id.
func ValidID(s string) bool { return isHex(s, IDLength) }

// Marshal returns the canonical bytes of release.json: these are what gets signed.
func (r Release) Marshal() ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	return b.Bytes(), nil
}

// ParseRelease reads release.json. It takes canonical bytes only, so that one release
// has exactly one encoding.
func ParseRelease(b []byte) (Release, error) {
	var r Release
	if len(b) > MaxReleaseSize {
		return r, fmt.Errorf("release: %d bytes, more than %d", len(b), MaxReleaseSize)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Release{}, fmt.Errorf("release: %w", err)
	}
	canonical, err := r.Marshal()
	if err != nil {
		return Release{}, err
	}
	if !bytes.Equal(canonical, b) {
		return Release{}, fmt.Errorf("release %s: not in its canonical encoding", r.ID())
	}
	return r, nil
}

func (r Release) validate() error {
	if _, err := ParseDigest(string(r.Config)); err != nil {
		return fmt.Errorf("release: config: %w", err)
	}
	if strings.ContainsFunc(r.Version+r.Image, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return fmt.Errorf("release %s: control character in version or image", r.ID())
	}
	if r.Arch == "" {
		return fmt.Errorf("release %s: no architecture", r.ID())
	}
	if len(r.Layers) == 0 {
		return fmt.Errorf("release %s: no layers", r.ID())
	}
	for i, l := range r.Layers {
		if _, err := ParseDigest(string(l.DiffID)); err != nil {
			return fmt.Errorf("release %s: layer %d: %w", r.ID(), i, err)
		}
		if l.Size <= 0 || l.Size%4096 != 0 {
			return fmt.Errorf("release %s: layer %d: size %d: want a positive multiple of 4096", r.ID(), i, l.Size)
		}
		if !isHex(l.RootHash, 64) {
			return fmt.Errorf("release %s: layer %d: root hash %q: want 64 lower-case hex digits", r.ID(), i, l.RootHash)
		}
	}
	return nil
}
