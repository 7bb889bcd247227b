//go:build vm

package doors

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The stock frontend's attestations are on our images too.
func TestAttestationsSurvive(t *testing.T) {
	generator := startRegistry(t) + "/scanner:test"
	pushScanner(t, generator)
	buildKairos(
		t,
		"--provenance",
		"mode=max",
		"--sbom",
		"generator="+generator,
		"--output",
		"type=oci,tar=false,dest=attested",
	)
	statements(t, "attested", "https://slsa.dev/provenance/")
	statements(t, "attested", "https://spdx.dev/Document")
}

// pushScanner makes the image of an SBOM generator.
func pushScanner(t *testing.T, to string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "scanner")
	build := exec.Command("go", "build", "-o", binary, "./test/doors/scanner")
	build.Dir, build.Env = repo, append(os.Environ(), "CGO_ENABLED=0")
	if _, err := tryRun(build); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "scanner", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
	)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config = v1.Config{Entrypoint: []string{"/scanner"}}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(to)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}
