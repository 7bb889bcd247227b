package mediumstep

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func folder(t *testing.T) (root, config string) {
	t.Helper()
	root = t.TempDir()
	for name, content := range map[string]string{"etc/os-release": "ID=demo\n", "usr/bin/sh": "sh"} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/bin", filepath.Join(root, "bin")); err != nil {
		t.Fatal(err)
	}
	config = filepath.Join(t.TempDir(), "config.json")
	b := `{"os":"linux","architecture":"amd64","created":"2026-05-01T00:00:00Z","config":{"Labels":{"a":"b"}},
		"rootfs":{"type":"layers","diff_ids":["sha256:x","sha256:y"]},"history":[{},{}]}`
	if err := os.WriteFile(config, []byte(b), 0o600); err != nil {
		t.Fatal(err)
	}
	return root, config
}

// Two runs of the step on different days give one image.
func TestFlattenIsReproducible(t *testing.T) {
	root, config := folder(t)
	epoch := time.Unix(1_000_000_000, 0)
	first, err := flatten(t.Context(), root, config, epoch)
	if err != nil {
		t.Fatal(err)
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	if err := os.Chtimes(filepath.Join(root, "etc"), tomorrow, tomorrow); err != nil {
		t.Fatal(err)
	}
	second, err := flatten(t.Context(), root, config, epoch)
	if err != nil {
		t.Fatal(err)
	}
	if first.ConfigDigest != second.ConfigDigest || first.Layers[0].DiffID != second.Layers[0].DiffID {
		t.Errorf(
			"%s %s, then %s %s",
			first.ConfigDigest,
			first.Layers[0].DiffID,
			second.ConfigDigest,
			second.Layers[0].DiffID,
		)
	}
	c := first.Config
	if len(first.Layers) != 1 || len(c.RootFS.DiffIDs) != 1 ||
		string(c.RootFS.DiffIDs[0]) != string(first.Layers[0].DiffID) ||
		c.Config.Labels["a"] != "b" {
		t.Errorf("config %+v", c)
	}
	r, err := first.Layers[0].Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	names := map[string]byte{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names[strings.TrimSuffix(h.Name, "/")] = h.Typeflag
		if h.ModTime.After(epoch) {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
	}
	for name, typ := range map[string]byte{"etc/os-release": tar.TypeReg, "bin": tar.TypeSymlink, "usr": tar.TypeDir} {
		if names[name] != typ {
			t.Errorf("%s: type %q, want %q", name, names[name], typ)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	root, config := folder(t)
	for want, args := range map[string][]string{
		`format "floppy" is not known`: {"--format", "floppy"},
		"SOURCE_DATE_EPOCH=soon":       {"--format", "iso", "--epoch", "soon"},
		`size "big"`:                   {"--format", "raw", "--size", "big"},
		"the image has no kernel":      {"--format", "iso"},
		"no such file":                 {"--format", "iso", "--config", "/nonexistent"},
	} {
		out := t.TempDir()
		err := Run(
			t.Context(),
			append([]string{"--root", root, "--config", config, "--out", out}, args...),
			&bytes.Buffer{},
		)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
		if left, _ := os.ReadDir(out); len(left) > 0 {
			t.Errorf("%v: left behind: %v", args, left)
		}
	}
}
