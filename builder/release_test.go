package builder

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-containerregistry/pkg/name"
	testregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	media "github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
)

// asked records what a registry is asked for.
type asked struct {
	http.Handler
	mu   sync.Mutex
	list []string
}

func (a *asked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.list = append(a.list, r.Method+" "+r.URL.Path)
	a.mu.Unlock()
	a.Handler.ServeHTTP(w, r)
}

func (a *asked) count(method, part string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.list {
		if strings.HasPrefix(l, method+" ") && strings.Contains(l, part) {
			n++
		}
	}
	return n
}

func serve(t *testing.T, referrers bool) (*asked, string) {
	t.Helper()
	o := []testregistry.Option{testregistry.Logger(log.New(io.Discard, "", 0))}
	if referrers {
		o = append(o, testregistry.WithReferrersSupport(true))
	}
	a := &asked{Handler: testregistry.New(o...)}
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	return a, strings.TrimPrefix(srv.URL, "http://")
}

// layerTar packs a tree as container builders do.
func layerTar(t *testing.T, tree fstest.MapFS) v1.Layer {
	t.Helper()
	b := boottest.Tar(t, boottest.WithFolders(tree))
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// pushBootable pushes an image that boots, as a program that is not ours makes it. Its versions share all layers but
// the last.
func pushBootable(t *testing.T, ref, version string) {
	t.Helper()
	const kernel = "6.12.1-amd64"
	tree := boottest.Tree(kernel)
	made, err := boot.Make(tree, boot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	file := func(b []byte) *fstest.MapFile { return &fstest.MapFile{Data: b, Mode: 0o644} }
	bootFiles := fstest.MapFS{
		layout.ImageKernel:       boottest.Link(path.Base(made.KernelPath)),
		layout.ImageInitrd:       file(made.Initrd),
		layout.ImageUKI:          file(made.UKI),
		layout.ImageBootManifest: file(made.Manifest.Marshal()),
		layout.ImageSystemdBoot:  file(boottest.Program("systemd-boot")),
	}
	last := fstest.MapFS{layout.ImageRelease: file([]byte("KAIROS_VERSION=" + version + "\n"))}
	img, err := mutate.AppendLayers(
		mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		layerTar(t, tree), layerTar(t, bootFiles), layerTar(t, last),
	)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config.Labels = map[string]string{layout.ImageLabelVersion: version}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	to, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, mutate.ConfigMediaType(img, types.OCIConfigJSON)); err != nil {
		t.Fatal(err)
	}
}

func openImage(t *testing.T, ref string) (*registry.Repository, *image.Image) {
	t.Helper()
	repo, desc, err := registry.Find(t.Context(), ref, registry.Options{AuthFiles: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	platform := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	img, err := image.Read(t.Context(), repo, image.Options{Platform: platform}, desc)
	if err != nil {
		t.Fatal(err)
	}
	return repo, img
}

// A release is found beside its image, twice made it is the same bytes, and the next one shares what it can: with a
// registry that has the referrers API, and with one that has not.
func TestPublishRelease(t *testing.T) {
	var digests []string
	for _, referrers := range []bool{true, false} {
		log, host := serve(t, referrers)
		pushBootable(t, host+"/os:v1.9", "v1.9")
		publish := func(ref string) release.Pushed {
			t.Helper()
			repo, img := openImage(t, ref)
			r, p, err := PublishRelease(t.Context(), repo, *img, media.Options{Cache: t.TempDir()}, true, nil)
			if err != nil {
				t.Fatal(err)
			}
			a, err := release.Find(t.Context(), repo, layout.Digest(img.Manifest.Digest))
			if err != nil {
				t.Fatal(err)
			}
			if a.Release.UKI != r.UKI || r.UKI == "" || a.Release.Manifest != layout.Digest(img.Manifest.Digest) {
				t.Errorf("%+v", a.Release)
			}
			var ids []layout.Digest
			for _, l := range img.Layers {
				ids = append(ids, l.DiffID)
			}
			if err := a.Fits(layout.Digest(img.Manifest.Digest), img.ConfigDigest, "amd64", ids); err != nil {
				t.Error(err)
			}
			if err := a.Fits(layout.Digest(img.Manifest.Digest), img.ConfigDigest, "amd64", ids[1:]); err == nil {
				t.Error("fits other layers")
			}
			return p
		}
		first := publish(host + "/os:v1.9")
		if first.Uploaded == 0 || first.Shared != 0 {
			t.Errorf("first: %+v", first)
		}
		again := publish(host + "/os:v1.9")
		if again.Artifact.Digest != first.Artifact.Digest || again.Uploaded != 0 || again.Shared != first.Uploaded {
			t.Errorf("again: %+v, first %+v", again, first)
		}
		// Another version shares all layers but the last: none of the others' tars is read, and none of their blobs
		// uploaded.
		pushBootable(t, host+"/os:v1.10", "v1.10")
		log.mu.Lock()
		log.list = nil
		log.mu.Unlock()
		next := publish(host + "/os:v1.10")
		if next.Uploaded == 0 || next.Uploaded > 64<<10 || next.Shared < first.Uploaded-64<<10 {
			t.Errorf("next: %+v, first %+v", next, first)
		}
		if n := log.count(http.MethodPost, "/blobs/uploads/"); n != 2 { // a blob and the record
			t.Errorf("%d uploads for one new layer", n)
		}
		digests = append(digests, first.Artifact.Digest.String())
	}
	if digests[0] != digests[1] {
		t.Errorf("the same image in two registries has two releases: %q", digests)
	}
}

// Who signs a release converts all of it: a wrong root hash that somebody else published beside an older image does
// not get into it.
func TestPublishReleaseBelievesNobody(t *testing.T) {
	_, host := serve(t, true)
	pushBootable(t, host+"/os:v1.9", "v1.9")
	repo, img := openImage(t, host+"/os:v1.9")
	honest, p, err := PublishRelease(t.Context(), repo, *img, media.Options{Cache: t.TempDir()}, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := release.Read(t.Context(), repo, p.Artifact)
	if err != nil {
		t.Fatal(err)
	}
	// The same blobs, with a wrong root hash for the first layer, beside an older image.
	pushBootable(t, host+"/os:v1.8", "v1.8")
	repo, img = openImage(t, host+"/os:v1.8")
	wrong := a
	wrong.Release.Layers = slices.Clone(a.Release.Layers)
	wrong.Release.Layers[0].RootHash = strings.Repeat("0", 64)
	wrong.Release.Manifest, wrong.Subject = layout.Digest(img.Manifest.Digest), img.Manifest
	manifest, record, err := wrong.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	at, err := release.RecordOf(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Push(t.Context(), at, bytes.NewReader(record)); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PushReferrer(t.Context(), wrong.Release.Manifest, layout.ReleaseType, manifest); err != nil {
		t.Fatal(err)
	}
	pushBootable(t, host+"/os:v1.10", "v1.10")
	repo, img = openImage(t, host+"/os:v1.10")
	made, _, err := PublishRelease(t.Context(), repo, *img, media.Options{Cache: t.TempDir()}, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if made.Layers[0] != honest.Layers[0] {
		t.Errorf("the first layer is %+v, want %+v", made.Layers[0], honest.Layers[0])
	}
	believed, _, err := PublishRelease(t.Context(), repo, *img, media.Options{Cache: t.TempDir()}, true, nil)
	if err == nil && believed.Layers[0] == honest.Layers[0] {
		t.Error("the wrong root hash is not found by who believes: this test shows nothing")
	}
}
