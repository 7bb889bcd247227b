package release

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

func digestOf(s string) layout.Digest { return layout.Digest(digest.FromString(s)) }

func sample() Artifact {
	l := layout.Layer{DiffID: digestOf("layer"), Size: 8192, RootHash: strings.Repeat("a", 64)}
	return Artifact{
		Release: layout.Release{
			Version: "v1", Config: digestOf("config"), Manifest: digestOf("manifest"), Arch: "amd64",
			Format: layout.Format{Compression: "zstd", Version: 3}, Layers: []layout.Layer{l, l},
		},
		Blobs: slices.Repeat([]ocispec.Descriptor{{
			MediaType: layout.ReleaseBlobType, Digest: digest.FromString("blob"), Size: verity.TotalSize(8192),
		}}, 2),
		Subject: ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("manifest"), Size: 7,
		},
	}
}

func TestArtifact(t *testing.T) {
	want := sample()
	manifest, record, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(manifest, record)
	if err != nil || !got.Equal(want) {
		t.Errorf("%+v, %v", got, err)
	}
	// The manifest's text is pinned: docs/release-format.md describes it.
	const begin = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
		`"artifactType":"application/vnd.kairos.release.v2+json",` +
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json",` +
		`"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},` +
		`"layers":[{"mediaType":"application/vnd.kairos.release.v2+json","digest":"sha256:`
	if !bytes.HasPrefix(manifest, []byte(begin)) {
		t.Errorf("manifest %s", manifest)
	}
	replace := func(from, to string) []byte {
		if !bytes.Contains(manifest, []byte(from)) {
			t.Fatalf("the manifest has no %s", from)
		}
		return bytes.Replace(manifest, []byte(from), []byte(to), 1)
	}
	// Signatures of boot files are behind the others, or in their place; what is not where it belongs is ignored.
	sigs := ocispec.Descriptor{
		MediaType: layout.SignaturesType, Digest: digest.FromString("signatures"), Size: 7,
	}
	bootSigs := ocispec.Descriptor{
		MediaType: layout.BootSignaturesType, Digest: digest.FromString("boot"), Size: layout.MaxBootSignaturesSize,
	}
	for _, more := range [][2]ocispec.Descriptor{{sigs, bootSigs}, {{}, bootSigs}, {sigs, {}}} {
		with := sample()
		with.Signatures, with.Boot = more[0], more[1]
		m, r, err := with.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Parse(m, r); err != nil || got.Signatures.Digest != more[0].Digest ||
			got.Boot.Digest != more[1].Digest {
			t.Errorf("%+v, %v", got, err)
		}
	}
	large := sample()
	large.Boot = bootSigs
	large.Boot.Size++
	if _, _, err := large.Marshal(); err == nil {
		t.Error("too large signatures of boot files accepted")
	}
	for name, bad := range map[string][]byte{
		"another type":    replace(`"artifactType":"application/vnd.kairos.release.v2+json"`, `"artifactType":"x"`),
		"another subject": replace(digest.FromString("manifest").String(), digest.FromString("x").String()),
		"no subject":      replace(`"subject"`, `"object"`),
		"a blob's size":   replace(`"size":16384`, `"size":16385`),
		"a blob's type":   replace(layout.ReleaseBlobType, "x"),
		"no JSON":         manifest[1:],
	} {
		if _, err := Parse(bad, record); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := Parse(manifest, append(record, '\n')); err == nil {
		t.Error("another record accepted")
	}
	few := sample()
	few.Blobs = few.Blobs[1:]
	if _, _, err := few.Marshal(); err == nil {
		t.Error("a layer without a blob accepted")
	}
}

func TestFits(t *testing.T) {
	a := sample()
	id := digestOf("layer")
	manifest, config := digestOf("manifest"), digestOf("config")
	for name, c := range map[string]struct {
		manifest, config layout.Digest
		arch             string
		diffIDs          []layout.Digest
		fits             bool
	}{
		"the image":               {manifest, config, "amd64", []layout.Digest{id, id}, true},
		"one that is set right":   {manifest, config, "amd64", []layout.Digest{id}, true},
		"two layers more":         {manifest, config, "amd64", nil, false},
		"layers that are missing": {manifest, config, "amd64", []layout.Digest{id, id, id}, false},
		"another layer":           {manifest, config, "amd64", []layout.Digest{id, "x"}, false},
		"another config":          {manifest, digestOf("x"), "amd64", []layout.Digest{id, id}, false},
		"another manifest":        {digestOf("x"), config, "amd64", []layout.Digest{id, id}, false},
		"another architecture":    {manifest, config, "arm64", []layout.Digest{id, id}, false},
	} {
		if err := a.Fits(c.manifest, c.config, c.arch, c.diffIDs); (err == nil) != c.fits {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNatural(t *testing.T) {
	got := []string{"v1.10", "v1.9", "latest", "v1.9.1", "v1"}
	slices.SortFunc(got, natural)
	if want := []string{"latest", "v1", "v1.9", "v1.9.1", "v1.10"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzParse(f *testing.F) {
	manifest, record, err := sample().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(manifest, record)
	f.Fuzz(func(t *testing.T, manifest, record []byte) {
		a, err := Parse(manifest, record)
		if err != nil {
			return
		}
		m, r, err := a.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(m, r); err != nil || !again.Equal(a) {
			t.Errorf("%+v, then %+v, %v", a, again, err)
		}
	})
}
