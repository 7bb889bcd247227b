package builder

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	media "github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
)

// The builder publishes the release that `kairos release` makes of the same image, once in each repository that the
// image was pushed to, and reads what it has itself from its own store.
func TestBuilderPublishesTheSameRelease(t *testing.T) {
	log, host := serve(t, true)
	for _, ref := range []string{"/os-a:v1", "/os-a:v2", "/os-b:v1", "/later:v1"} {
		pushBootable(t, host+ref, "v1")
	}
	repo, img := openImage(t, host+"/later:v1")
	_, want, err := PublishRelease(t.Context(), repo, *img, media.Options{Cache: t.TempDir()}, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	manifest := keep(t, store, repo, img.Manifest)
	for _, l := range manifest.Layers {
		keep(t, store, repo, l)
	}
	log.list = nil

	p := publication{
		digest:    img.Manifest.Digest.String(),
		platforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}},
		local:     store,
		cache:     t.TempDir(),
		hosts: func(reference.Named) docker.RegistryHosts {
			return docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))
		},
	}
	if err := p.publish(t.Context(), []string{host + "/os-a:v1", host + "/os-a:v2", host + "/os-b:v1"}); err != nil {
		t.Fatal(err)
	}
	for _, l := range manifest.Layers {
		if n := log.count(http.MethodGet, "/blobs/"+l.Digest.String()); n > 0 {
			t.Errorf("layer %s was fetched %d times, and is in the store", l.Digest, n)
		}
	}
	if n := log.count(http.MethodHead, "/os-a/manifests/"+p.digest); n != 1 {
		t.Errorf("a repository with two tags was looked at %d times", n)
	}
	for _, ref := range []string{"/os-a:v2", "/os-b:v1"} {
		repo, img := openImage(t, host+ref)
		found, err := release.Find(t.Context(), repo, layout.Digest(img.Manifest.Digest))
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := found.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if layout.SHA256(sha256.Sum256(b)) != layout.Digest(want.Artifact.Digest) {
			t.Errorf("%s: another manifest than kairos release makes: %s", ref, b)
		}
	}

	// Nothing of it here: as it is with a base image that was never pulled.
	if p.local, err = local.NewStore(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	pushBootable(t, host+"/os-c:v1", "v1")
	if err := p.publish(t.Context(), []string{host + "/os-c:v1"}); err != nil {
		t.Error(err)
	}
	err = p.publish(t.Context(), []string{host + "/none:v1"})
	if err == nil || !strings.Contains(err.Error(), "the image is pushed, its release is not") {
		t.Errorf("an image that is not there: %v", err)
	}
}

func keep(t *testing.T, store content.Store, from image.Blobs, desc ocispec.Descriptor) (m ocispec.Manifest) {
	t.Helper()
	b, err := from.Open(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := content.WriteBlob(context.Background(), store, desc.Digest.String(), b, desc); err != nil {
		t.Fatal(err)
	}
	if desc.MediaType == ocispec.MediaTypeImageManifest {
		data, err := content.ReadBlob(t.Context(), store, desc)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestReleaseAttrs(t *testing.T) {
	for _, c := range []struct {
		attrs  map[string]string
		always bool
		want   string // an error, or push and release
	}{
		{nil, false, "push= release=false"},
		{map[string]string{"push": "true", "name": "x"}, false, "push=true release=false"},
		{map[string]string{"push": "true", "name": "x", "release": "true"}, false, "push=true release=true"},
		{map[string]string{"push": "", "name": "x", "release": ""}, false, "push= release=true"},
		{map[string]string{"push": "true", "name": "x", "release": "false"}, false, "push=true release=false"},
		{map[string]string{"name": "x"}, true, "push=true release=true"},
		{map[string]string{"name": "x", "release": "true"}, false, "add push=true"},
		{map[string]string{"push": "true", "release": "true"}, false, "Add name=REF"},
		{map[string]string{"push": "true", "release": "yes"}, false, "release=yes"},
		{map[string]string{"name": "x", "push": "false"}, true, "use type=image"},
		{map[string]string{}, true, "Add name=REF"},
	} {
		rest, _, wanted, err := releaseAttrs(c.attrs, c.always)
		got := "push=" + rest["push"] + " release=false"
		if wanted {
			got = "push=" + rest["push"] + " release=true"
		}
		if err != nil {
			got = err.Error()
		}
		if _, ok := rest[attrRelease]; ok || !strings.Contains(got, c.want) {
			t.Errorf("%v, %v: %s, want %s", c.attrs, c.always, got, c.want)
		}
	}
}
