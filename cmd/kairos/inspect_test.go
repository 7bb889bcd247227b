package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

func digestOf(c string) layout.Digest { return layout.Digest("sha256:" + strings.Repeat(c, 64)) }

// writeDisk writes a disk with the releases a and b, which share a layer; one of a's labels would clear a terminal.
func writeDisk(t *testing.T) string {
	t.Helper()
	a := layout.Release{Version: "v1", Image: "example/os:v1", Config: digestOf("a"), Arch: "amd64",
		Labels: map[string]string{layout.ImageLabelCmdline: "\x1b[2J"}}
	b := layout.Release{Version: "v2", Config: digestOf("b"), Arch: "amd64"}
	layer := func(c string, size int64) layout.Layer {
		return layout.Layer{DiffID: digestOf(c), Size: size, RootHash: strings.Repeat(c, 64)}
	}
	a.Layers = []layout.Layer{layer("0", 1<<20), layer("1", 4096)}
	b.Layers = []layout.Layer{layer("0", 1<<20), layer("2", 8192)}
	d := disk.Disk{Seed: []byte("seed"), Time: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)}
	for _, p := range layout.Partitions() {
		part := disk.Partition{Partition: p, Free: 1 << 20}
		switch p.Name {
		case "efi":
			part.Size = 48 << 20
			for _, e := range []layout.Entry{layout.Blessed(1, a.ID()), layout.OnTrial(2, b.ID())} {
				part.Files = append(part.Files, filetree.Bytes(layout.UKIDir+"/"+e.String(), []byte("UKI")))
			}
		case "oem":
			part.Size, part.Files = 8<<20, []filetree.File{filetree.Bytes(layout.OEMCloudConfig, []byte("secret"))}
		case "state":
			for _, r := range []layout.Release{a, b} {
				record, err := r.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				if r.Image != "" {
					origin, err := layout.MarshalOrigin(r.Image)
					if err != nil {
						t.Fatal(err)
					}
					part.Files = append(part.Files, filetree.Bytes(layout.ReleaseOriginPath(r.ID()), origin))
				}
				part.Files = append(part.Files, filetree.Bytes(layout.ReleasePath(r.ID()), record),
					filetree.Bytes(layout.BlobPath(r.Layers[1].DiffID),
						make([]byte, verity.TotalSize(r.Layers[1].Size))))
			}
		case "persistent":
			part.Size = 8 << 20
		}
		d.Partitions = append(d.Partitions, part)
	}
	m, err := d.Image()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "os.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.WriteSparse(t.Context(), f, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(m.Size); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func run(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if got := program(args, streams{strings.NewReader(""), &out, &errs}); got != code {
		t.Fatalf("kairos %q: exit code %d, want %d: %s", args, got, code, errs.String())
	}
	return out.String(), errs.String()
}

func TestInspectDisk(t *testing.T) {
	file := writeDisk(t)
	text, _ := run(t, 0, "inspect", file)
	for _, want := range []string{
		"raw disk, ", "5  state       Linux       6", "COS_STATE\n",
		"\nRelease bbbbbbbbbbbb  v2  amd64  active, on state\n",
		"\nRelease aaaaaaaaaaaa  v1  amd64  passive, on state\n",
		"  image   example/os:v1\n", "  label   io.kairos.cmdline=\\x1b[2J\n",
		"layers  2, 1.081MB, of which other releases have 1.065MB, too\n", "shared with aaaaaaaaaaaa\n",
		"  00000002  bbbbbbbbbbbb  on trial, 3 tries left\n  00000001  aaaaaaaaaaaa  blessed\n",
		"  EFI/Linux/kairos-00000001-aaaaaaaaaaaa+9-0.efi  3B\n", "\nCloud-config: 90_custom.yaml\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q", want)
		}
	}
	if strings.Contains(text, "secret") || strings.Contains(text, "\x1b") {
		t.Error("it shows what is not to be shown")
	}
	if t.Failed() {
		t.Log(text)
	}
	var i api.Inspection
	out, _ := run(t, 0, "inspect", "-o", "json", "disk:"+file)
	if err := json.Unmarshal([]byte(out), &i); err != nil {
		t.Fatal(err)
	}
	if i.Schema != api.Schema || i.Kind != api.KindRaw || i.SectorSize != 512 || len(i.Partitions) != 6 ||
		len(i.Entries) != 2 ||
		i.Partitions[1].Type != layout.TypeESP || i.Partitions[1].Start != 2<<20 || i.Partitions[1].Size != 48<<20 {
		t.Errorf("%+v", i)
	}
	if r := i.Releases[0]; r.Role != "active" || r.Place != api.PlaceState || r.Shared != verity.TotalSize(1<<20) ||
		r.Layers[0].SharedWith[0] != "aaaaaaaaaaaa" || r.Layers[1].RootHash != strings.Repeat("2", 64) {
		t.Errorf("%+v", r)
	}
}

// writeImage writes an image in an OCI layout whose lower layer is a boot layer.
func writeImage(t *testing.T, labels map[string]string) string {
	t.Helper()
	layer := func(files map[string]string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for name, content := range files {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var m boot.Manifest
	m.Kernel.Version, m.Cmdline = "6.12.1-amd64", "console=ttyS0"
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		static.NewLayer(layer(map[string]string{
			layout.ImageBootManifest: string(m.Marshal()), layout.ImageUKI: "UKI", "etc/x": "y",
		}), types.OCIUncompressedLayer),
		static.NewLayer(layer(map[string]string{"etc/motd": "hello"}), types.OCIUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config.Labels = "linux", "amd64", labels
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l, err := ggcr.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(mutate.ConfigMediaType(img, types.OCIConfigJSON)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestInspectImage(t *testing.T) {
	dir := writeImage(t, map[string]string{layout.ImageLabelFormat: "zstd-0-v3", layout.ImageLabelVersion: "v7",
		"x": "y"})
	var i api.Inspection
	out, _ := run(t, 0, "inspect", "-o", "json", "--platform", "linux/amd64", "oci-layout:"+dir)
	if err := json.Unmarshal([]byte(out), &i); err != nil {
		t.Fatal(err)
	}
	r := i.Releases[0]
	if i.Kind != api.KindImage || len(i.Problems) > 0 || r.Version != "v7" || r.Kernel != "6.12.1-amd64" ||
		r.Cmdline != "console=ttyS0" ||
		len(r.Layers) != 2 || r.Layers[1].Size == 0 || r.Size != r.Layers[0].Size+r.Layers[1].Size ||
		len(r.Labels) != 2 ||
		len(i.BootFiles) != 1 || !strings.HasPrefix(r.ConfigDigest, "sha256:"+r.Release) {
		t.Errorf("%s", out)
	}
	text, _ := run(t, 0, "inspect", "oci-layout:"+writeImage(t, nil))
	if !strings.Contains(text, "`kairos export` adds what boots it") || strings.Contains(text, "Cloud-config") {
		t.Errorf("%s", text)
	}
}
