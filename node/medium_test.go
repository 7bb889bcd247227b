package node

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// isoOf writes an ISO with a release, as a node has it.
func isoOf(t *testing.T, img testImage) testImage {
	t.Helper()
	node := t.TempDir()
	install(t, node, "uefi", t.TempDir(), img)
	dir := filepath.Join(node, recoveryDir)
	iso := disk.ISO{Volume: layout.LabelLive}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		iso.Files = append(iso.Files, filetree.File{
			Path: path.Join(layout.LiveRoot, filepath.ToSlash(rel)), Size: info.Size(),
			Open: func() (io.ReadCloser, error) { return os.Open(name) },
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	iso.EFI, err = (fat.FileSystem{
		Label: layout.LabelESP, Files: []filetree.File{filetree.Bytes("x", []byte("x"))},
	}).Image()
	if err != nil {
		t.Fatal(err)
	}
	m, err := iso.Image()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "os.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.WriteTo(context.Background(), f); err != nil {
		t.Fatal(err)
	}
	img.ref = source.Ref{Kind: source.ISO, Name: f.Name()}
	return img
}

// A node goes to the release on a medium, without a registry; what rots of it later comes from there again.
func TestUpgradeFromMedium(t *testing.T) {
	a, b, _ := threeImages(t)
	iso := isoOf(t, b)
	dir, cache := t.TempDir(), t.TempDir()
	m := install(t, dir, "uefi", cache, a)
	r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: iso.source()})
	if err != nil {
		t.Fatal(err)
	}
	if r.Release != b.id || r.Version != "v1" {
		t.Errorf("%+v", r)
	}
	if order, err := bootable(dir, "uefi"); err != nil || len(order) != 3 || order[0].ID != b.id {
		t.Errorf("boots %v, %v", order, err)
	}
	have, err := m.State.Release(b.id)
	if err != nil || have.Image != "iso:"+iso.ref.Name {
		t.Fatalf("%+v, %v", have, err)
	}
	blob := store.New(filepath.Join(dir, stateDir)).BlobPath(have.Layers[1].DiffID)
	rot(t, blob)
	v, err := m.Verify(t.Context(), VerifyOptions{Repair: true})
	if err != nil || !v.Whole() || !strings.HasPrefix(v.Damage[0].Repaired, "fetched again from iso:") {
		t.Errorf("%+v, %v", v, err)
	}
}
