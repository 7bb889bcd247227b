package source

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	testregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// testImage is an image with two layers, one of them compressed, made by another library.
func testImage(t *testing.T, arch string) v1.Image {
	t.Helper()
	layer := func(content string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	gzipped, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer("one " + arch))), nil },
	)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(
		mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		gzipped,
		static.NewLayer(layer("two"), types.OCIUncompressedLayer),
	)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Config.Labels = map[string]string{"arch": arch}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return mutate.ConfigMediaType(img, types.OCIConfigJSON)
}

// testIndex is the image for two platforms, with an attestation that is for none.
func testIndex(t *testing.T) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: testImage(
				t,
				arch,
			), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return mutate.AppendManifests(index, mutate.IndexAddendum{
		Add: testImage(
			t,
			"none",
		), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}},
	})
}

func openString(ctx context.Context, s string, o Options) (*Image, error) {
	r, err := Parse(s)
	if err != nil {
		return nil, err
	}
	return Open(ctx, r, o)
}

// check opens an image and reads all of it.
func check(t *testing.T, s, arch string, want v1.Image) {
	t.Helper()
	img, err := openString(t.Context(), s, Options{Platform: "linux/" + arch})
	if err != nil {
		t.Errorf("%s: %v", s, err)
		return
	}
	defer img.Close()
	if got := img.Config.Config.Labels["arch"]; got != arch {
		t.Errorf("%s: image for %q", s, got)
	}
	digest, err := want.ConfigName()
	if err != nil || string(img.ConfigDigest) != digest.String() {
		t.Errorf("%s: config %s, want %s (%v)", s, img.ConfigDigest, digest, err)
	}
	layers, err := want.Layers()
	if err != nil || len(img.Layers) != len(layers) {
		t.Fatalf("%s: %d layers, want %d", s, len(img.Layers), len(layers))
	}
	for i, l := range layers {
		id, err := l.DiffID()
		if err != nil || string(img.Layers[i].DiffID) != id.String() {
			t.Errorf("%s: layer %d is %s, want %s", s, i, img.Layers[i].DiffID, id)
		}
		r, err := img.Layers[i].Open(t.Context())
		if err != nil {
			t.Errorf("%s: layer %d: %v", s, i, err)
			continue
		}
		got, _, err := v1.SHA256(r)
		if err != nil || got != id {
			t.Errorf("%s: layer %d has the content %s, want %s (%v)", s, i, got, id, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// tarFolder packs a folder, as `docker save` and type=oci do.
func tarFolder(t *testing.T, dir string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

func writeLayout(t *testing.T, tags ...string) string {
	t.Helper()
	dir := t.TempDir()
	l, err := ggcr.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		err := l.AppendIndex(testIndex(t),
			ggcr.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLayoutsAndArchives(t *testing.T) {
	one, two := writeLayout(t, "v1"), writeLayout(t, "v1", "latest")
	for _, arch := range []string{"amd64", "arm64"} {
		want := testImage(t, arch)
		check(t, "oci-layout:"+one, arch, want)
		check(t, "oci-layout:"+two, arch, want)
		check(t, "oci-layout:"+two+":v1", arch, want)
		check(t, "oci-archive:"+tarFolder(t, one), arch, want)
		check(t, "oci-archive:"+tarFolder(t, two)+":v1", arch, want)
	}
}

func TestOldDockerArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "old.tar")
	tag, err := name.NewTag("example.test/os:v1")
	if err != nil {
		t.Fatal(err)
	}
	img := testImage(t, "amd64")
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		t.Fatal(err)
	}
	check(t, "docker-archive:"+file, "amd64", img)
	check(t, "docker-archive:"+file+":example.test/os:v1", "amd64", img)
}

func TestRegistry(t *testing.T) {
	s := httptest.NewServer(testregistry.New())
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	ref, err := name.ParseReference(host + "/os:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, testIndex(t)); err != nil {
		t.Fatal(err)
	}
	check(t, host+"/os:v1", "arm64", testImage(t, "arm64"))
	check(t, "oci:"+host+"/os:v1", "amd64", testImage(t, "amd64"))
}

// What is wrong is said for the person who typed the source.
func TestErrors(t *testing.T) {
	s := httptest.NewServer(testregistry.New())
	defer s.Close()
	closed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer closed.Close()
	host, closedHost := strings.TrimPrefix(s.URL, "http://"), strings.TrimPrefix(closed.URL, "http://")

	damaged := writeLayout(t, "latest")
	damage(t, damaged)
	several, none := writeLayout(t, "v1", "v2"), writeLayout(t)
	notTar := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(notTar, bytes.Repeat([]byte("x"), 2048), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	for source, want := range map[string]string{
		"oci-layout:/nonexistent":       "no such file",
		"oci-layout:" + t.TempDir():     "neither index.json (OCI layout) nor manifest.json",
		"oci-layout:" + several + ":v9": `no image tagged "v9"`,
		"oci-layout:" + none:            "0 images",
		"oci-layout:" + damaged:         "damaged",
		"oci-archive:/nonexistent":      "no such file",
		"oci-archive:" + notTar:         "read the archive",
		"docker:os":                     "no Docker engine at /nonexistent/docker.sock",
		"containerd:os":                 "no containerd at /nonexistent/containerd.sock",
		"localhost:1/os":                "localhost:1 cannot be reached",
		host + "/os:v1":                 "does not have it",
		closedHost + "/os:v1":           "log in with `docker login " + closedHost,
		"oci-layout:" + writeLayout(t, "latest") + "@sha256:" + strings.Repeat("0", 64): "no image tagged",
		"oci:": "nothing after oci:",
		"???":  "invalid reference format",
	} {
		img, err := openString(
			t.Context(),
			source,
			Options{
				Platform:   "linux/amd64",
				Docker:     "/nonexistent/docker.sock",
				Containerd: "/nonexistent/containerd.sock",
			},
		)
		if err == nil {
			t.Errorf("%s: opened", source)
			_ = img.Close()
			continue
		}
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), source) {
			t.Errorf("%s: %v, want %q", source, err, want)
		}
	}
	if _, err := openString(t.Context(), "oci-layout:"+writeLayout(t, "latest"),
		Options{Platform: "linux/riscv64"}); err == nil ||
		!strings.Contains(err.Error(), "it is for linux/amd64, linux/arm64, not for linux/riscv64") {
		t.Errorf("another platform: %v", err)
	}
}

// damage changes a byte in every JSON blob below an OCI layout's index.
func damage(t *testing.T, dir string) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range blobs {
		b, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		if json.Valid(b) {
			b = append(b, ' ')
			if err := os.WriteFile(blob, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The engine of Docker gives an image as a stream; nothing of it stays behind.
func TestDockerEngine(t *testing.T) {
	saved := filepath.Join(t.TempDir(), "saved.tar")
	tag, _ := name.NewTag("os:v1")
	img := testImage(t, "amd64")
	if err := tarball.WriteToFile(saved, tag, img); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/images/get" || r.URL.Query().Get("names") != "os:v1" {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"message":"No such image"}`))
			return
		}
		http.ServeFile(w, r, saved)
	})}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	temp := t.TempDir()
	o := Options{Platform: "linux/amd64", Docker: filepath.Join(dir, "docker.sock"), Temp: temp}
	got, err := openString(context.Background(), "docker:os:v1", o)
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := img.ConfigName(); string(got.ConfigDigest) != want.String() {
		t.Errorf("config %s, want %s", got.ConfigDigest, want)
	}
	if err := got.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := openString(context.Background(), "docker:other", o); err == nil ||
		!strings.Contains(err.Error(), "No such image") {
		t.Errorf("an image that the engine does not have: %v", err)
	}
}
