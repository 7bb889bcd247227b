package main

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ociLayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/layout"
)

// side makes what one side of the comparison has: a boot layer with a program, and media with a kernel.
func side(t *testing.T, program, kernel, seed string) string {
	t.Helper()
	dir := t.TempDir()
	image := v1.Image(empty.Image)
	for _, files := range []map[string]string{{"etc/os": "user's"}, {"usr/bin/agent": program, "boot/kernel": "k"}} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name]))}); err != nil {
				t.Fatal(err)
			}
			io.WriteString(w, files[name])
		}
		w.Close()
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b.Bytes())), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if image, err = mutate.AppendLayers(image, l); err != nil {
			t.Fatal(err)
		}
	}
	image, err := mutate.Config(image, v1.Config{Labels: map[string]string{userLayers: "1"}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ociLayout.Write(filepath.Join(dir, "image"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(image); err != nil {
		t.Fatal(err)
	}
	d := disk.Disk{Seed: []byte(seed), Time: time.Unix(1767225600, 0)}
	for _, x := range layout.Partitions() {
		part := disk.Partition{Partition: x}
		part.Size = 8 << 20
		if x.Name == "efi" {
			part.Size = 8 << 20
			part.Files = []filetree.File{
				filetree.Bytes("EFI/kernel", []byte(kernel)), filetree.Bytes("a", []byte("a")),
			}
		}
		if x.FS == "" {
			part.Size = 1 << 20
		}
		d.Partitions = append(d.Partitions, part)
	}
	m, err := d.Image()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"os.iso", "os.raw"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.WriteSparse(t.Context(), f, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(m.Size); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return dir
}

// What is the same is said to be, and what differs is named down to the file.
func TestCompare(t *testing.T) {
	base := side(t, "agent 1", "kernel 1", "seed")
	for name, c := range map[string]struct {
		program, kernel, seed string
		says                  []string // empty: all is the same
		not                   []string
	}{
		"the same": {"agent 1", "kernel 1", "seed", nil, []string{"different"}},
		"another program": {"agent two", "kernel 1", "seed",
			[]string{"boot layer: different", "M /usr/bin/agent, 7 bytes -> 9 bytes", "ISO: same", "raw disk: same"},
			[]string{"/boot/kernel"}},
		"another kernel": {"agent 1", "kernel 2", "seed",
			[]string{"boot layer: same", "ISO: different", "efi: M /EFI/kernel, 8 bytes -> 8 bytes"},
			[]string{"efi: M /a", "oem"}},
		"another seed": {"agent 1", "kernel 1", "another",
			[]string{"boot layer: same", "efi: GUID", "the files are the same"}, []string{" M "}},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			same, err := compare(&out, base, side(t, c.program, c.kernel, c.seed))
			if err != nil || same != (c.says == nil) {
				t.Errorf("same: %v, %v", same, err)
			}
			for _, text := range c.says {
				if !strings.Contains(out.String(), text) {
					t.Errorf("%q is not in\n%s", text, out.String())
				}
			}
			for _, text := range c.not {
				if strings.Contains(out.String(), text) {
					t.Errorf("%q is in\n%s", text, out.String())
				}
			}
		})
	}
}
