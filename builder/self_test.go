package builder

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/frontend"
)

// program makes a small static program.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	src := filepath.Join(dir, "main.go")
	if err := os.WriteFile(src, []byte("package main\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-o", out, src)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	return out
}

// others is the registry behind: it must not be asked for our image.
type others struct{ asked []string }

func (o *others) RoundTrip(r *http.Request) (*http.Response, error) {
	o.asked = append(o.asked, r.URL.Path)
	return nil, errors.New("no network")
}

func get(t *testing.T, rt http.RoundTripper, method, path string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://registry-1.docker.io"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

func TestSelfImageIsAnImage(t *testing.T) {
	self := &selfImage{path: program(t)}
	behind := &others{}
	rt := selfTransport{self: self, prefix: "/v2", others: behind}
	const repo = "/v2/library/kairos/"

	head, _ := get(t, rt, http.MethodHead, repo+"manifests/latest")
	resp, b := get(t, rt, http.MethodGet, repo+"manifests/"+head.Header.Get("Docker-Content-Digest"))
	if digest.FromBytes(b).String() != head.Header.Get("Docker-Content-Digest") ||
		resp.ContentLength != int64(len(b)) {
		t.Errorf("manifest: %v, %d bytes", head.Header, len(b))
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	_, config := get(t, rt, http.MethodGet, repo+"blobs/"+m.Config.Digest.String())
	var img ocispec.Image
	if err := json.Unmarshal(config, &img); err != nil || m.Config.Digest != digest.FromBytes(config) {
		t.Fatalf("config %s: %v", config, err)
	}
	if img.Config.Labels["moby.buildkit.frontend.network.none"] != "true" ||
		!strings.Contains(img.Config.Labels["moby.buildkit.frontend.caps"], "contexts") {
		t.Errorf("labels %v", img.Config.Labels)
	}
	_, layer := get(t, rt, http.MethodGet, repo+"blobs/"+m.Layers[0].Digest.String())
	if digest.FromBytes(layer) != m.Layers[0].Digest || int64(len(layer)) != m.Layers[0].Size ||
		img.RootFS.DiffIDs[0] != m.Layers[0].Digest {
		t.Errorf("layer: %d bytes, %v", len(layer), m.Layers[0])
	}
	r := tar.NewReader(strings.NewReader(string(layer)))
	h, err := r.Next()
	if err != nil || "/"+h.Name != img.Config.Entrypoint[0] || h.Mode != 0o755 {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the program: %v", err)
	}

	if resp, _ := get(t, rt, http.MethodGet, repo+"manifests/v9"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("another tag: %s", resp.Status)
	}
	if len(behind.asked) != 0 {
		t.Errorf("the registry behind was asked for %v", behind.asked)
	}
	req, _ := http.NewRequestWithContext(
		t.Context(),
		http.MethodGet,
		"https://registry-1.docker.io/v2/library/debian/manifests/latest",
		nil,
	)
	if _, err := rt.RoundTrip(req); err == nil || len(behind.asked) != 1 {
		t.Errorf("another image: %v, asked %v", err, behind.asked)
	}

	again := &selfImage{path: self.path}
	if err := again.make(); err != nil || string(again.manifest) != string(self.manifest) {
		t.Errorf("the same program made another image: %v", err)
	}
}

func TestSelfImageNeedsAStaticProgram(t *testing.T) {
	err := (&selfImage{path: "/bin/sh"}).make()
	if err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("error %v", err)
	}
}

func TestMediumAttributes(t *testing.T) {
	m, err := ParseMedium(
		"iso",
		map[string]string{"format": "iso", "name": "a,b", "cloud-config": "#cloud-config\n", "source-date-epoch": "7"},
	)
	if err != nil || string(m.CloudConfig) != "#cloud-config\n" || m.image.ImageName != "a,b" || m.Epoch.Unix() != 7 {
		t.Errorf("%+v, %v", m, err)
	}
	for want, c := range map[string]struct {
		format string
		attrs  map[string]string
	}{
		`format "floppy" is not known: use iso, raw or qcow2`: {"floppy", nil},
		`attribute "sise" is not known: use annotation, cloud-config, max-content, name`: {"iso",
			map[string]string{"sise": "3"}},
		`size "x": want`:                {"raw", map[string]string{"size": "x"}},
		`compress=lz4 is not known`:     {"raw", map[string]string{"compress": "lz4"}},
		`attribute "size" is not known`: {"iso", map[string]string{"size": "8G"}},
	} {
		if c.attrs == nil {
			c.attrs = map[string]string{}
		}
		if _, err := ParseMedium(c.format, c.attrs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want %q", c, err, want)
		}
	}
}

// The frontend's image from the registry says of itself what the one from the program says.
func TestDockerfileHasTheFrontendsLabels(t *testing.T) {
	b, err := os.ReadFile("../Dockerfile.frontend")
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range frontendLabels() {
		if want := "LABEL " + key + `="` + value + `"`; !strings.Contains(string(b), want+"\n") {
			t.Errorf("Dockerfile.frontend lacks %s", want)
		}
	}
	if want := `ENTRYPOINT ["` + frontend.Binary + `"]`; !strings.Contains(string(b), want) {
		t.Errorf("Dockerfile.frontend lacks %s", want)
	}
}
