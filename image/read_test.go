package image

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What stands beside an image is not taken for one, in whatever order and way it is listed.
func TestReadPassesOverWhatIsNoImage(t *testing.T) {
	b := newBlobs()
	img := b.image("linux/amd64", 2)
	attestation := on("linux/amd64", b.image("linux/amd64", 1))
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	byAnnotation := b.image("linux/amd64", 1)
	byAnnotation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	byType := on("linux/amd64", b.image("linux/amd64", 1))
	byType.ArtifactType = "application/vnd.example.sbom"
	chart := b.json(ocispec.MediaTypeImageManifest,
		ocispec.Manifest{Config: b.put("application/vnd.example.chart", []byte("{}"))})
	typed := b.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		ArtifactType: "application/vnd.example.signature", Config: b.put(ocispec.MediaTypeImageConfig, []byte("{}")),
	})
	for name, other := range map[string]ocispec.Descriptor{
		"attestation of BuildKit":       attestation,
		"attestation by its annotation": byAnnotation,
		"type in the index":             byType,
		"type in the manifest":          typed,
		"type for our platform":         on("linux/amd64", typed),
		"type of the config":            chart,
		"config for our platform":       on("linux/amd64", chart),
		"neither index nor manifest":    b.put("application/octet-stream", []byte("x")),
		"index of artifacts": b.json(ocispec.MediaTypeImageIndex, ocispec.Index{
			ArtifactType: "application/vnd.example", Manifests: []ocispec.Descriptor{b.image("linux/amd64", 1)},
		}),
	} {
		for _, entry := range []ocispec.Descriptor{img, on("linux/amd64", img)} {
			got, err := Read(t.Context(), b, options("linux/amd64"), b.index(other, entry))
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if len(got.Layers) != 2 {
				t.Errorf("%s: an image of %d layers was taken", name, len(got.Layers))
			}
		}
		if got, err := Read(t.Context(), b, options("linux/amd64"), b.index(other)); err == nil {
			t.Errorf("%s, alone: it was taken for %+v", name, got)
		}
	}
	// Nor does an attestation keep the only image from being the only one.
	o := options("linux/amd64")
	o.Fallback = true
	got, err := Read(t.Context(), b, o, b.index(attestation, on("linux/arm64", b.image("linux/arm64", 2))))
	if err != nil || got.Config.Architecture != "arm64" {
		t.Errorf("the only image: %+v, %v", got, err)
	}
}

// The image for the highest variant that the CPU has is taken, and one for a higher one is refused.
func TestVariants(t *testing.T) {
	for _, c := range []struct {
		platform, has, want string // want is a platform, or the reason
	}{
		{"linux/amd64/v2", "linux/amd64/v2", "linux/amd64/v2"},
		{"linux/amd64/v3", "linux/amd64/v2", "linux/amd64/v2"},
		{"linux/amd64", "linux/amd64/v2", "linux/amd64/v2"}, // nobody said which CPU it is
		{"linux/amd64/v1", "linux/amd64/v2",
			"it is for CPUs of linux/amd64/v2, and this one has no more than linux/amd64"},
		{"linux/amd64/v2", "linux/amd64/v3",
			"it is for CPUs of linux/amd64/v3, and this one has no more than linux/amd64/v2"},
		{"linux/amd64/v3", "linux/amd64 linux/amd64/v2 linux/amd64/v3 linux/amd64/v4", "linux/amd64/v3"},
		{"linux/amd64/v3", "linux/amd64/v4 linux/amd64/v2 linux/amd64", "linux/amd64/v2"},
		{"linux/amd64", "linux/amd64/v3 linux/amd64/v2", "linux/amd64/v2"},
		{"linux/amd64/v1", "linux/amd64/v3 linux/amd64/v2",
			"it is for linux/amd64/v3, linux/amd64/v2, not for linux/amd64"},
		{"linux/arm/v7", "linux/arm/v6 linux/arm/v7 linux/arm64", "linux/arm/v7"},
		{"linux/amd64/v2", "linux/arm64", "it is for linux/arm64, not for linux/amd64/v2"},
	} {
		for _, bare := range []bool{false, true} { // the platform is in the index, or in the config alone
			b := newBlobs()
			var entries []ocispec.Descriptor
			for p := range strings.FieldsSeq(c.has) {
				if d := b.image(p, 1); bare {
					entries = append(entries, d)
				} else {
					entries = append(entries, on(p, d))
				}
			}
			o := options(c.platform)
			o.Platform = platforms.MustParse(c.platform)
			if c.platform == "linux/amd64/v1" {
				o.Platform.Variant = "v1" // which is dropped by those that normalize
			}
			img, err := Read(t.Context(), b, o, b.index(entries...))
			if !strings.HasPrefix(c.want, "linux/") {
				var unfit *UnfitError
				if !errors.As(err, &unfit) || !unfit.Platform || !strings.HasPrefix(unfit.What, c.want) {
					t.Errorf("%+v: %v", c, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%+v: %v", c, err)
				continue
			}
			if got := platforms.Format(img.Config.Platform); got != c.want {
				t.Errorf("%+v: %s was taken", c, got)
			}
		}
	}
}

// An index's word does not make an image one for this CPU: its config decides.
func TestConfigDecidesPlatform(t *testing.T) {
	b := newBlobs()
	for _, has := range []string{"linux/arm64", "linux/amd64/v3"} {
		_, err := Read(t.Context(), b, options("linux/amd64/v2"), b.index(on("linux/amd64", b.image(has, 1))))
		if unfit := (*UnfitError)(nil); !errors.As(err, &unfit) || !unfit.Platform {
			t.Errorf("%s: %v", has, err)
		}
	}
}

// Indexes that name one another many times over are a few kilobytes, and more reads than an image's life has.
func TestIndexesAreBounded(t *testing.T) {
	b := newBlobs()
	deep := b.image("linux/amd64", 1)
	for range maxDepth + 1 {
		deep = b.index(deep)
	}
	_, err := Read(t.Context(), b, options("linux/amd64"), deep)
	if err == nil || !strings.Contains(err.Error(), "without an end") {
		t.Errorf("indexes in indexes: %v", err)
	}
	chart := b.json(ocispec.MediaTypeImageManifest,
		ocispec.Manifest{Config: b.put("application/vnd.example.chart", []byte("{}"))})
	many := chart
	for range maxDepth - 1 {
		copies := make([]ocispec.Descriptor, 20)
		for n := range copies {
			copies[n] = many
		}
		many = b.index(copies...)
	}
	b.opened = 0
	_, err = Read(t.Context(), b, options("linux/amd64"), many)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("more than %d", maxManifests)) ||
		b.opened > 2*maxManifests {
		t.Errorf("%d reads: %v", b.opened, err)
	}
}
