package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Release is one bootable version of the system: an image's layers, each named by its
// diffID and sealed by the root hash of its dm-verity tree.
//
// A release is identified by the image's *config* digest, not by its manifest's: the
// config names the uncompressed layers, so that the image has the same identity in a
// registry, in an archive, in an engine's store, and however it was compressed.
//
// Its record, release.json, is in the second format, whose text docs/release-format.md describes.
type Release struct {
	// V1 says that the record is in the first format, which has neither Manifest, Epoch, Format nor UKI:
	// an /init of that time reads no other.
	V1 bool
	// Version is KAIROS_VERSION of the image, for people.
	Version string
	// Image is the reference that the image was taken from, for people. May be empty. The second format does
	// not have it, since one image is in many places: a store keeps it beside the record, see [ReleaseOriginPath].
	Image string
	// Config is the digest of the image's config.
	Config Digest
	// Manifest is the digest of the image's manifest for its platform: of the one that a published release
	// is the referrer of. Empty where the image was in no registry, such as on a medium made of it.
	Manifest Digest
	// Epoch is the image's label io.kairos.epoch: an index against rollback, at most [MaxEpoch].
	Epoch int64
	// Arch is the image's architecture in OCI's words (amd64, arm64).
	Arch string
	// Labels are the image's labels io.kairos.*: what its boot files are made with, wherever
	// they have to be regenerated. See [ReleaseLabels].
	Labels map[string]string
	// Format is what all layers' blobs are made as. Zero where they are not all of one format, or it is not known.
	Format Format
	// UKI is the Authenticode digest of the image's UKI: what a signature of the UKI signs. Empty where not known.
	UKI Digest
	// Layers are ordered as in the image: the lowest first.
	Layers []Layer
	// Signatures is the content of the file beside the record, [ReleaseSignaturesPath], at most [MaxSignaturesSize]
	// bytes, which package trust reads. nil where there is none. The record itself does not have it.
	Signatures []byte
	// BootSignatures is the content of [ReleaseBootSignaturesPath], at most [MaxBootSignaturesSize] bytes, which
	// package uki/secureboot reads. nil where there is none, which is so for all whose image has its boot files
	// signed. The record does not have it: each signature is compared with its file and the image's certificate.
	BootSignatures []byte
}

// ReleaseSchema is the newest format of release.json, the second.
const ReleaseSchema = 2

// MaxEpoch is the highest index against rollback.
const MaxEpoch = 1<<31 - 1

// releaseV1 and releaseV2 are the records. The order of fields is part of the format.
type releaseV1 struct {
	Version string            `json:"version"`
	Image   string            `json:"image"`
	Config  Digest            `json:"config"`
	Arch    string            `json:"arch"`
	Labels  map[string]string `json:"labels,omitempty"`
	Layers  []Layer           `json:"layers"`
}

type releaseV2 struct {
	Schema   int               `json:"schema"`
	Version  string            `json:"version"`
	Config   Digest            `json:"config"`
	Manifest Digest            `json:"manifest,omitempty"`
	Epoch    int64             `json:"epoch"`
	Arch     string            `json:"arch"`
	Labels   map[string]string `json:"labels,omitempty"`
	Format   string            `json:"format,omitempty"`
	UKI      Digest            `json:"uki,omitempty"`
	Layers   []Layer           `json:"layers"`
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

const (
	// IDLength is the number of hex digits in a release's id.
	IDLength = 12
	// MaxLayers is the number of layers that overlayfs takes (OVL_MAX_STACK of fs/overlayfs/params.h).
	MaxLayers = 500
	// MaxReleaseSize bounds the size of release.json in bytes. Each of at most [MaxLayers] layers takes under 250
	// bytes.
	MaxReleaseSize = 256 << 10
	// MaxSignaturesSize bounds the record of a release's signatures in bytes.
	MaxSignaturesSize = 16 << 10
	// MaxBootSignaturesSize bounds the signatures of a release's boot files in bytes.
	MaxBootSignaturesSize = 64 << 10
)

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
	if err := e.Encode(r.record()); err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	return b.Bytes(), nil
}

func (r Release) record() any {
	if r.V1 {
		return releaseV1{r.Version, r.Image, r.Config, r.Arch, r.Labels, r.Layers}
	}
	format := ""
	if r.Format != (Format{}) {
		format = r.Format.String()
	}
	return releaseV2{
		ReleaseSchema, r.Version, r.Config, r.Manifest, r.Epoch, r.Arch, r.Labels, format, r.UKI, r.Layers,
	}
}

// AsV1 returns the release in the first format, for an /init that reads no other.
func (r Release) AsV1() Release {
	r.V1, r.Manifest, r.Epoch, r.Format, r.UKI = true, "", 0, Format{}, ""
	return r
}

// ParseRelease reads release.json, in either format. It takes canonical bytes only, so that one release
// has exactly one encoding.
func ParseRelease(b []byte) (Release, error) {
	if len(b) > MaxReleaseSize {
		return Release{}, fmt.Errorf("release: %d bytes, more than %d", len(b), MaxReleaseSize)
	}
	r, err := decodeRelease(b)
	if err != nil {
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

func decodeRelease(b []byte) (Release, error) {
	var which struct {
		Schema *int `json:"schema"`
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&which); err != nil {
		return Release{}, err
	}
	if which.Schema == nil {
		var v releaseV1
		err := decodeStrictly(b, &v)
		return Release{
			V1: true, Version: v.Version, Image: v.Image, Config: v.Config, Arch: v.Arch,
			Labels: v.Labels, Layers: v.Layers,
		}, err
	}
	if *which.Schema != ReleaseSchema {
		return Release{}, fmt.Errorf("its format is number %d, and 1 and %d are known", *which.Schema, ReleaseSchema)
	}
	var v releaseV2
	if err := decodeStrictly(b, &v); err != nil {
		return Release{}, err
	}
	r := Release{
		Version: v.Version, Config: v.Config, Manifest: v.Manifest, Epoch: v.Epoch, Arch: v.Arch, Labels: v.Labels,
		UKI: v.UKI, Layers: v.Layers,
	}
	if v.Format == "" {
		return r, nil
	}
	var err error
	r.Format, err = ParseFormat(v.Format)
	return r, err
}

func decodeStrictly(b []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(to)
}

func (r Release) validate() error {
	if _, err := ParseDigest(string(r.Config)); err != nil {
		return fmt.Errorf("release: config: %w", err)
	}
	if strings.ContainsFunc(r.Version+r.Image, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return fmt.Errorf("release %s: control character in version or image", r.ID())
	}
	if err := r.validateV2(); err != nil {
		return fmt.Errorf("release %s: %w", r.ID(), err)
	}
	if r.Arch == "" {
		return fmt.Errorf("release %s: no architecture", r.ID())
	}
	if len(r.Layers) == 0 {
		return fmt.Errorf("release %s: no layers", r.ID())
	}
	if len(r.Layers) > MaxLayers {
		return fmt.Errorf(
			"release %s: %d layers: the kernel takes %d: make fewer, such as by a last stage that copies from the "+
				"others",
			r.ID(),
			len(r.Layers),
			MaxLayers,
		)
	}
	for i, l := range r.Layers {
		if _, err := ParseDigest(string(l.DiffID)); err != nil {
			return fmt.Errorf("release %s: layer %d: %w", r.ID(), i, err)
		}
		if l.Size <= 0 || l.Size%4096 != 0 {
			return fmt.Errorf("release %s: layer %d: size %d: want a positive multiple of 4096", r.ID(), i, l.Size)
		}
		if !isHex(l.RootHash, 64) {
			return fmt.Errorf(
				"release %s: layer %d: root hash %q: want 64 lower-case hex digits",
				r.ID(),
				i,
				l.RootHash,
			)
		}
	}
	return nil
}

// validateV2 looks at what the first format does not have.
func (r Release) validateV2() error {
	if r.V1 {
		if r.Manifest != "" || r.Epoch != 0 || r.Format != (Format{}) || r.UKI != "" {
			return errors.New("manifest, epoch, format or UKI in the first format, which has none of them")
		}
		return nil
	}
	for name, d := range map[string]Digest{"manifest": r.Manifest, "UKI": r.UKI} {
		if _, err := ParseDigest(string(d)); d != "" && err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if r.Epoch < 0 || r.Epoch > MaxEpoch {
		return fmt.Errorf("epoch %d: want 0 to %d", r.Epoch, MaxEpoch)
	}
	if r.Format != (Format{}) {
		if _, err := ParseFormat(r.Format.String()); err != nil {
			return err
		}
	}
	return nil
}

// maxOrigin bounds an image's reference in bytes.
const maxOrigin = 4096

// MarshalOrigin returns the content of a release's file [ReleaseOriginPath].
func MarshalOrigin(image string) ([]byte, error) {
	control := func(c rune) bool { return c < ' ' || c == 0x7f }
	if image == "" || len(image) > maxOrigin || strings.ContainsFunc(image, control) {
		return nil, fmt.Errorf("origin %q: want a reference to an image of at most %d bytes", image, maxOrigin)
	}
	return []byte(image + "\n"), nil
}

// ParseOrigin reads the file.
func ParseOrigin(b []byte) (string, error) {
	image, ok := strings.CutSuffix(string(b), "\n")
	if !ok {
		return "", errors.New("origin: it does not end with a newline")
	}
	_, err := MarshalOrigin(image)
	return image, err
}

// ImageEpoch returns the index against rollback that an image's labels give it, 0 where there is none.
func ImageEpoch(labels map[string]string) (int64, error) {
	label := labels[ImageLabelEpoch]
	if label == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(label, 10, 64)
	if err != nil || n < 0 || n > MaxEpoch || strconv.FormatInt(n, 10) != label {
		return 0, fmt.Errorf("label %s=%q: want a number from 0 to %d", ImageLabelEpoch, label, MaxEpoch)
	}
	return n, nil
}
