//go:build vm

package live

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	klayout "github.com/kairos-buildkit/kairos/layout"
)

// openImage opens the one image in an OCI layout.
func openImage(t *testing.T, dir string) v1.Image {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 1 {
		t.Fatalf("%s has %d manifests, want one", dir, len(m.Manifests))
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func layerDigests(t *testing.T, img v1.Image) (digests []string) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d.String())
	}
	return digests
}

// The bootable image is an ordinary one: the layers of the base are the very same, and a container
// runtime runs it.
func TestContainer(t *testing.T) {
	img := openImage(t, get(t, example).oci)
	base, got := layerDigests(t, openImage(t, baseLayout)), layerDigests(t, img)
	if len(got) <= len(base) || strings.Join(got[:len(base)], " ") != strings.Join(base, " ") {
		t.Errorf(
			"layers are\n%s\nwant them to begin with the base's\n%s",
			strings.Join(got, "\n"),
			strings.Join(base, "\n"),
		)
	}

	bundle := t.TempDir()
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	tree := mutate.Extract(img)
	defer tree.Close()
	tar := exec.Command("tar", "-x", "-C", rootfs)
	tar.Stdin = tree
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	spec := exec.Command("runc", "spec")
	spec.Dir = bundle
	if out, err := spec.CombinedOutput(); err != nil {
		t.Fatalf("runc spec: %v\n%s", err, out)
	}
	edit(t, filepath.Join(bundle, "config.json"), func(c map[string]any) {
		process := c["process"].(map[string]any)
		process["terminal"] = false
		process["args"] = []string{"cat", "/etc/os-release", "/etc/kairos-release"}
	})
	run := exec.Command(
		"runc",
		"--root",
		filepath.Join(bundle, "state"),
		"run",
		"--bundle",
		bundle,
		"kairos-test-container",
	)
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("runc run: %v\n%s", err, out)
	}
	for _, want := range []string{"ID=debian", "KAIROS_"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the container prints no %q:\n%s", want, out)
		}
	}
}

func edit(t *testing.T, file string, change func(map[string]any)) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	change(c)
	if b, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

// The ISO's release is the image: its id is that of the image's config.
func TestISOHoldsTheImage(t *testing.T) {
	built := get(t, example)
	config, err := openImage(t, built.oci).ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	id := klayout.ReleaseID(klayout.Digest(config.String()))
	out, err := exec.Command("xorriso", "-indev", built.iso, "-find", "/kairos/releases", "-type", "d").Output()
	if err != nil {
		t.Fatalf("xorriso: %v", err)
	}
	if !strings.Contains(string(out), "/kairos/releases/"+id) {
		t.Errorf("the image is %s, and the ISO holds\n%s", id, out)
	}
}

// Two builds of one source, with nothing shared and at different paths, give the same ISO.
func TestReproducible(t *testing.T) {
	first := get(t, example)
	source := filepath.Join(t.TempDir(), "another", "path")
	// A plain copy: its files have other times than the originals.
	copyTree(t, exampleDir, source)
	secret, err := secretArgs()
	if err != nil {
		t.Fatal(err)
	}
	iso := filepath.Join(t.TempDir(), "os.iso")
	args := append(secret, exampleLabels()...)
	build(t, append(args, "--root", t.TempDir(), "--no-cache", "--build-arg", "SOURCE_DATE_EPOCH="+epoch,
		"--output", "type=iso,dest="+iso, source)...)
	cmp := exec.Command("cmp", first.iso, iso)
	if out, err := cmp.CombinedOutput(); err != nil {
		t.Errorf("the ISOs differ: %s", out)
		explain(t, first.iso, iso)
	}
}

// explain shows where two ISOs differ.
func explain(t *testing.T, a, b string) {
	list := func(iso string) []string {
		out, err := exec.Command("xorriso", "-indev", iso, "-find", "/", "-exec", "lsdl", "--").Output()
		if err != nil {
			t.Fatalf("xorriso: %v", err)
		}
		return strings.Split(string(out), "\n")
	}
	x, y := list(a), list(b)
	for _, l := range minus(x, y) {
		t.Log("first:  ", l)
	}
	for _, l := range minus(y, x) {
		t.Log("second: ", l)
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o777); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-r", from+"/.", to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
}

// After a change of one late line, only the layer of that line is converted.
func TestIncremental(t *testing.T) {
	get(t, example)
	source := filepath.Join(t.TempDir(), "source")
	copyTree(t, exampleDir, source)
	// A change that no earlier run has made: the cache outlives them.
	if err := os.WriteFile(filepath.Join(source, "rootfs/etc/hostname"), []byte(rand.Text()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	secret, err := secretArgs()
	if err != nil {
		t.Fatal(err)
	}
	args := append(secret, exampleLabels()...)
	log := build(t, append(args, "--build-arg", "SOURCE_DATE_EPOCH="+epoch,
		"--output", "type=iso,dest="+filepath.Join(t.TempDir(), "os.iso"), source)...)
	converted, cached := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(log) {
		for word, set := range map[string]map[string]bool{"converting layer ": converted, "cached layer ": cached} {
			if _, rest, ok := strings.Cut(line, word); ok {
				set[strings.Fields(rest)[0]] = true
			}
		}
	}
	// Base, packages, account and the boot layer are as they were.
	if len(converted) != 1 || len(cached) < 4 {
		t.Errorf(
			"converted are the layers %v, and %v taken from the cache; want one converted:\n%s",
			converted,
			cached,
			tail(log, 40),
		)
	}
}

// A secret is not in the image, nor in what the image tells of its build.
func TestSecretStaysOut(t *testing.T) {
	config, err := openImage(t, get(t, example).oci).RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(config, []byte(passwordHash)) {
		t.Error("the image's config has the build secret in it")
	}
}
