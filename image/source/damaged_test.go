package source

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// savedArchive is what `docker save` wrote before Docker 25, with a config of this name.
func savedArchive(t testing.TB, configName string, config []byte, layers ...string) []byte {
	t.Helper()
	manifest := []map[string]any{{"Config": configName, "RepoTags": []string{"example.test/os:v1"}}}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name string, content []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for n, l := range layers {
		names = append(names, fmt.Sprintf("%d/layer.tar", n))
		add(names[n], []byte(l))
	}
	manifest[0]["Layers"] = names
	m, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	add(configName, config)
	add("manifest.json", m)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// configOf is the config of an image of these layers.
func configOf(t testing.TB, layers ...string) []byte {
	t.Helper()
	c := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString(l))
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "os.tar")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// In a docker-archive nothing but the config's own name says which bytes it should have.
func TestConfigIsWhatItsNameSays(t *testing.T) {
	config := configOf(t, "layer")
	hex := digest.FromBytes(config).Encoded()
	damaged := bytes.Replace(config, []byte("amd64"), []byte("amd65"), 1)
	for _, name := range []string{hex + ".json", "blobs/sha256/" + hex, "sha256:" + hex} {
		file := write(t, savedArchive(t, name, config, "layer"))
		img, err := openString(t.Context(), "docker-archive:"+file, Options{Platform: "linux/amd64"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if err := errors.Join(img.Check(), img.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		file = write(t, savedArchive(t, name, damaged, "layer"))
		_, err = openString(t.Context(), "docker-archive:"+file, Options{Platform: "linux/amd64"})
		if err == nil || !strings.Contains(err.Error(), "its content is another one") ||
			!strings.Contains(err.Error(), name) {
			t.Errorf("%s, damaged: %v", name, err)
		}
	}
	file := write(t, savedArchive(t, "config.json", config, "layer"))
	if _, err := openString(t.Context(), "docker-archive:"+file, Options{Platform: "linux/amd64"}); err != nil {
		t.Errorf("a name that is no digest: %v", err)
	}
}

// What a file claims to have is not read into memory.
func TestMetadataOfFilesIsBounded(t *testing.T) {
	big := func(dir, name string) {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(image.MaxMetadata+1), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"index.json", "manifest.json"} {
		dir := t.TempDir()
		big(dir, name)
		_, err := openString(t.Context(), "oci-layout:"+dir, Options{Platform: "linux/amd64"})
		if tooLarge := (*bounded.SizeError)(nil); !errors.As(err, &tooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	big(dir, "config.json")
	manifest := []byte(`[{"Config":"config.json","RepoTags":["os:v1"],"Layers":[]}]`)
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openString(t.Context(), "docker-archive:"+dir, Options{Platform: "linux/amd64"})
	if err == nil {
		t.Error("a folder was opened as an archive")
	}
	_, err = openString(t.Context(), "oci-layout:"+dir, Options{Platform: "linux/amd64"})
	if tooLarge := (*bounded.SizeError)(nil); !errors.As(err, &tooLarge) {
		t.Errorf("config: %v", err)
	}
}

// The lowest variant of amd64 is one, too: an image for a higher one is refused there.
func TestLowestVariant(t *testing.T) {
	var c ocispec.Image
	if err := json.Unmarshal(configOf(t, "layer"), &c); err != nil {
		t.Fatal(err)
	}
	c.Variant = "v2"
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, savedArchive(t, "config.json", b, "layer"))
	for platform, want := range map[string]string{
		"linux/amd64/v1": "it is for CPUs of linux/amd64/v2, and this one has no more than linux/amd64/v1",
		"linux/amd64/v2": "", "linux/amd64/v3": "", "linux/amd64": "",
	} {
		_, err := openString(t.Context(), "docker-archive:"+file, Options{Platform: platform})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", platform, err, want)
		}
	}
}

// What another library writes is checked like what `docker save` writes.
func TestConfigOfAnotherProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "os.tar")
	tag, err := name.NewTag("example.test/os:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(file, tag, testImage(t, "amd64")); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Replace(b, []byte(`"arch":"amd64"`), []byte(`"arch":"amd65"`), 1)
	if bytes.Equal(damaged, b) {
		t.Fatal("no label was found to change")
	}
	_, err = openString(t.Context(), "docker-archive:"+write(t, damaged), Options{Platform: "linux/amd64"})
	if err == nil || !strings.Contains(err.Error(), "its content is another one") {
		t.Error(err)
	}
}

// Index, manifest and config of an OCI layout are what their descriptors say, in a folder and in an archive.
func TestMetadataIsWhatItsDescriptorSays(t *testing.T) {
	changes := map[string]struct{ from, to string }{ // what is valid, too, and as long
		"index":    {`"architecture":"amd64"`, `"architecture":"arm64"`},
		"manifest": {`"schemaVersion":2`, `"schemaVersion":3`},
		"config":   {`"arch":"amd64"`, `"arch":"amd65"`},
	}
	for _, what := range []string{"sound", "index", "manifest", "config"} {
		dir := writeLayout(t, "latest")
		want := ""
		if change, ok := changes[what]; ok {
			d := metadataOf(t, testIndex(t), what)
			file := filepath.Join(dir, "blobs", "sha256", d.Hex)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			damaged := bytes.Replace(b, []byte(change.from), []byte(change.to), 1)
			if bytes.Equal(damaged, b) {
				t.Fatalf("%s has no %s", what, change.from)
			}
			if err := os.WriteFile(file, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			want = "blob " + d.String() + ": its content is another one"
		}
		packed := tarFolder(t, dir)
		for _, ref := range []string{"oci-layout:" + dir, "oci-archive:" + packed, "docker-archive:" + packed} {
			img, err := openString(t.Context(), ref, Options{Platform: "linux/amd64"})
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s in %s: %v, want %q", what, ref, err, want)
			}
			if err == nil {
				_ = img.Close()
			}
		}
	}
}

// metadataOf is the digest of an index, or of the manifest or the config of its first image.
func metadataOf(t *testing.T, index v1.ImageIndex, what string) v1.Hash {
	t.Helper()
	d, err := index.Digest()
	if err == nil && what != "index" {
		var list *v1.IndexManifest
		if list, err = index.IndexManifest(); err == nil {
			d = list.Manifests[0].Digest
		}
	}
	if err == nil && what == "config" {
		var img v1.Image
		if img, err = index.Image(d); err == nil {
			d, err = img.ConfigName()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}
