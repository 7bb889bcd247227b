package bootlayer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
)

// maxText bounds the text files of an image, in bytes.
const maxText = 1 << 20

// MakeRelease returns the layer that goes on top of the boot layer: what says which version the
// image is. It is one of its own, so that a new version leaves the boot layer as it is.
func MakeRelease(root fs.FS, o Options) (*Layer, error) {
	release, err := kairosRelease(root, o)
	if err != nil {
		return nil, err
	}
	return &Layer{Files: []File{release}}, nil
}

// kairosRelease makes /etc/kairos-release: the keys that the Kairos project's tools and
// its cloud-config templates read. They follow from the distribution's os-release, the
// architecture and the image's version.
func kairosRelease(root fs.FS, o Options) (File, error) {
	osr, err := osRelease(root)
	if err != nil {
		return File{}, err
	}
	version, err := imageVersion(o.Labels)
	if err != nil {
		return File{}, err
	}
	flavor := cmp.Or(osr["ID"], "linux")
	flavorRelease := cmp.Or(osr["VERSION_ID"], osr["VERSION_CODENAME"], osr["BUILD_ID"], "rolling")
	const variant, model = "core", "generic"
	name := strings.Join([]string{"kairos", variant, flavor, flavorRelease}, "-")

	var b bytes.Buffer
	for _, kv := range [][2]string{
		{"ID", "kairos"},
		{"ID_LIKE", name},
		{"NAME", name},
		{"VERSION", version},
		{"RELEASE", version},
		{"ARCH", o.Arch},
		{"TARGETARCH", o.Arch},
		{"FLAVOR", flavor},
		{"FLAVOR_RELEASE", flavorRelease},
		{"FAMILY", family(flavor, osr["ID_LIKE"])},
		{"VARIANT", variant},
		{"MODEL", model},
		{"IMAGE_LABEL", strings.Join([]string{flavorRelease, variant, o.Arch, model, version}, "-")},
		{"SOFTWARE_VERSION", ""},
		{"SOFTWARE_VERSION_PREFIX", ""},
		{"FIPS", "false"},
		{"TRUSTED_BOOT", "false"},
		{"HOME_URL", "https://github.com/kairos-io/kairos"},
		{"BUG_REPORT_URL", "https://github.com/kairos-io/kairos/issues"},
	} {
		b.WriteString(layout.OSReleaseLine("KAIROS_"+kv[0], kv[1]))
	}
	return File{Path: layout.ImageRelease, Mode: 0o644, Data: b.Bytes()}, nil
}

// imageVersion is KAIROS_VERSION. The Kairos project's upgrade tools read it as a
// semantic version with a "v" before it, so where there is none the image gets v0.0.0.
func imageVersion(labels map[string]string) (string, error) {
	v := cmp.Or(labels[layout.ImageLabelVersion], labels[ocispec.AnnotationVersion], "v0.0.0")
	if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "", fmt.Errorf(
			"LABEL %s: %q: a version has no spaces and no control characters",
			layout.ImageLabelVersion,
			v,
		)
	}
	return v, nil
}

// family names the group of distributions, in the Kairos project's words.
func family(id, like string) string {
	for _, id := range append([]string{id}, strings.Fields(like)...) {
		switch id {
		case "debian", "ubuntu":
			return "debian"
		case "fedora", "rhel", "centos", "rocky", "almalinux":
			return "redhat"
		case "suse", "opensuse", "sles", "opensuse-leap", "opensuse-tumbleweed":
			return "suse"
		case "alpine", "arch", "hadron":
			return id
		}
	}
	return id
}

// osRelease reads the distribution's os-release(5).
func osRelease(root fs.FS) (map[string]string, error) {
	b, err := bounded.ReadFirst(root, maxText, layout.OSRelease, layout.OSReleaseVendor)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return layout.ParseOSRelease(b), err
}
