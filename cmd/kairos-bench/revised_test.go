package main

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/crowd"
	"github.com/kairos-buildkit/kairos/release/blocks"
)

func layerOf(t *testing.T, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer.tar")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		h := tar.Header{Name: "./" + name, Mode: 0o644, Size: int64(len(files[name]))}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func filesOf(t *testing.T, path string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := eachFile(path, func(h *tar.Header, content io.Reader) error {
		b, err := io.ReadAll(content)
		files[strings.TrimPrefix(h.Name, "./")] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A revision changes what it names, and nothing else.
func TestRevise(t *testing.T) {
	elf := "\x7fELF" + strings.Repeat("code", 1000)
	from := map[string]string{
		"boot/vmlinuz-6.12.1":            "MZ" + strings.Repeat("k", 9000),
		"usr/bin/openssl":                elf,
		"usr/bin/other":                  elf,
		"usr/share/doc/openssl":          "words",
		"var/lib/dpkg/info/openssl.list": "/usr/bin/openssl\n/usr/share/doc/openssl\n",
		"var/lib/dpkg/status":            "Package: openssl\n",
	}
	layer := layerOf(t, from)
	for name, c := range map[string]struct {
		revision
		changed []string
	}{
		"one file": {revision{files: []string{"usr/bin/other"}}, []string{"usr/bin/other"}},
		"packages": {revision{packages: []string{"openssl"}},
			[]string{"usr/bin/openssl", "var/lib/dpkg/info/openssl.list", "var/lib/dpkg/status"}},
		"kernel": {revision{kernel: true}, []string{"boot/vmlinuz-6.12.1", "boot/vmlinuz-6.13.1"}},
	} {
		to := filepath.Join(t.TempDir(), "to.tar")
		if err := c.revise(layer, to); err != nil {
			t.Fatal(err)
		}
		got, changed := filesOf(t, to), []string{}
		for name := range from {
			if got[name] != from[name] {
				changed = append(changed, name)
			}
			delete(got, name)
		}
		for name := range got {
			changed = append(changed, name)
		}
		if slices.Sort(changed); !slices.Equal(changed, c.changed) {
			t.Errorf("%s: changed %q, want %q", name, changed, c.changed)
		}
	}
	none := revision{name: "x", files: []string{"none"}}
	if err := none.revise(layer, filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("a revision that changes nothing is accepted")
	}
}

// What simulated nodes ask for is the product's plan: one file of many costs its blocks and the tree.
func TestPlansOfRevisions(t *testing.T) {
	files := map[string]string{}
	for i := range 200 {
		name, content := string(rune('a'+i%26))+strings.Repeat("x", i), string(rune('0'+i%70))
		files[name] = "\x7fELF" + strings.Repeat(content, 100_000)
	}
	dir := t.TempDir()
	from, to := layerOf(t, files), filepath.Join(t.TempDir(), "to.tar")
	if err := (revision{files: []string{"axxxxxxxxxxxxxxxxxxxxxxxxxx"}}).revise(from, to); err != nil {
		t.Fatal(err)
	}
	var layers []converted
	for _, path := range []string{from, to} {
		c, err := convertedLayer(context.Background(), path, dir)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, c)
	}
	u := simulated{layers: layers[1:]}
	for i, has := range [][]converted{layers[:1], layers[1:], nil} {
		var err error
		if u.plans[i], err = plans(t.Context(), u.layers, has); err != nil {
			t.Fatal(err)
		}
	}
	kinds := u.kinds(blocks.Joined())
	tree := int64(len(layers[1].tree))
	if requests, bytes := costOf(kinds[0]); requests < 2 || bytes <= tree || bytes >= layers[1].Size {
		t.Errorf("%d requests, %d bytes of a blob of %d", requests, bytes, layers[1].Size)
	}
	if requests, _ := costOf(kinds[1]); requests != 0 {
		t.Errorf("%d requests for what is there", requests)
	}
	if _, bytes := costOf(kinds[2]); bytes != layers[1].Size+tree {
		t.Errorf("%d bytes for a new node, want %d", bytes, layers[1].Size+tree)
	}
	if r := crowd.Run(crowdOf(100, kinds)); r.Fetched == 0 || r.Requests == 0 {
		t.Errorf("%+v", r)
	}
}
