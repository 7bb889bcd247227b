package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// writeISO writes an ISO with one release.
func writeISO(t *testing.T) string {
	t.Helper()
	digest := layout.Digest("sha256:" + strings.Repeat("a", 64))
	layer := layout.Layer{DiffID: digest, Size: 4096, RootHash: strings.Repeat("b", 64)}
	r := layout.Release{Version: "v1", Config: digest, Arch: "amd64", Layers: []layout.Layer{layer}}
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	efi, err := fat.FileSystem{
		Label: layout.LabelESP, Files: []filetree.File{filetree.Bytes("x", []byte("x"))},
	}.Image()
	if err != nil {
		t.Fatal(err)
	}
	m, err := disk.ISO{Volume: layout.LabelLive, EFI: efi, Files: []filetree.File{
		filetree.Bytes(layout.LiveRoot+"/"+layout.ReleasePath(r.ID()), b),
		filetree.Bytes(layout.LiveRoot+"/"+layout.BlobPath(digest), make([]byte, verity.TotalSize(4096))),
	}}.Image()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "os:v1.iso")) // with a colon
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.WriteTo(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func TestMedium(t *testing.T) {
	iso := writeISO(t)
	for _, s := range []string{"iso:" + iso, "iso:" + iso + ":live", "iso:" + iso + ":" + strings.Repeat("a", 12)} {
		img, err := openString(t.Context(), s, Options{Platform: "linux/amd64"})
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if img.Ref != s || img.Version() != "v1" || img.Layers[0].Blob == nil {
			t.Errorf("%s: %+v", s, img.Image)
		}
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}
	file := func(content string) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for s, want := range map[string]string{
		"disk:" + iso:                               "its format is iso: write iso:" + iso,
		"iso:" + iso + ":passive":                   `it has no release "passive": it has aaaaaaaaaaaa live`,
		"iso:/nonexistent":                          "no such file",
		"iso:" + file("\x28\xb5\x2f\xfdxxxxxxxxxx"): "unpack it with `zstd -d`",
		"disk:" + file(""):                          "neither an ISO nor a disk",
	} {
		_, err := openString(t.Context(), s, Options{Platform: "linux/amd64"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", s, err, want)
		}
	}
}
