package node

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// rot changes bytes in the middle of a file; its name and size stay.
func rot(t testing.TB, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[len(b)/3:], "rot")
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Each kind of damage is found, and repaired from where the bytes are still right.
func TestVerify(t *testing.T) {
	img, _, _ := threeImages(t)
	for name, tc := range map[string]struct {
		damage   func(t *testing.T, disk string, m *Machine, r layout.Release)
		place    string
		problem  string
		repaired string
	}{
		"blob on STATE": {func(t *testing.T, _ string, m *Machine, r layout.Release) {
			rot(t, m.State.BlobPath(r.Layers[0].DiffID))
		}, api.PlaceState, "", "copied from the other partition"},
		"blob on RECOVERY": {func(t *testing.T, _ string, m *Machine, r layout.Release) {
			rot(t, m.Recovery.BlobPath(r.Layers[1].DiffID))
		}, api.PlaceRecovery, "", "copied from the other partition"},
		"blob truncated": {func(t *testing.T, _ string, m *Machine, r layout.Release) {
			if err := os.Truncate(m.State.BlobPath(r.Layers[0].DiffID), 4096); err != nil {
				t.Fatal(err)
			}
		}, api.PlaceState, "missing or incomplete", "copied from the other partition"},
		"release.json": {func(t *testing.T, disk string, _ *Machine, r layout.Release) {
			rot(t, filepath.Join(disk, stateDir, layout.ReleasePath(r.ID())))
		}, api.PlaceState, "damaged", "copied from the other partition"},
		"UKI": {func(t *testing.T, disk string, m *Machine, r layout.Release) {
			names, err := filepath.Glob(filepath.Join(disk, espDir, layout.UKIDir, "kairos-0*1-"+r.ID()+"*"))
			if err != nil || len(names) != 1 {
				t.Fatal(names, err)
			}
			rot(t, names[0])
		}, api.PlaceESP, "differs", "written again from the release's layers"},
		"kernel for BIOS": {func(t *testing.T, disk string, m *Machine, r layout.Release) {
			if err := os.Remove(filepath.Join(disk, espDir, layout.GrubKernelDir, r.ID(), "vmlinuz")); err != nil {
				t.Fatal(err)
			}
		}, api.PlaceESP, "missing", "written again from the release's layers"},
		"cache": {func(t *testing.T, _ string, m *Machine, _ layout.Release) {
			dir := filepath.Join(m.Cache, cacheDir, "content/blobs/sha256")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, strings.Repeat("0", 64)), []byte("rot"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, api.PlaceCache, "not those of its digest", "removed: what is needed of it is fetched again"},
	} {
		t.Run(name, func(t *testing.T) {
			disk := t.TempDir()
			m := install(t, disk, "uefi", t.TempDir(), img)
			r, err := m.State.Release(img.id)
			if err != nil {
				t.Fatal(err)
			}
			v, err := m.Verify(t.Context(), VerifyOptions{})
			if err != nil || len(v.Damage) != 0 || v.Releases != 2 || v.Layers != 2*len(r.Layers) || v.Bytes == 0 {
				t.Fatalf("before: %+v, %v", v, err)
			}
			tc.damage(t, disk, m, r)

			v, err = m.Verify(t.Context(), VerifyOptions{})
			var damaged *DamagedError
			if !errors.As(err, &damaged) || len(v.Damage) == 0 || v.Whole() {
				t.Fatalf("not found: %+v, %v", v, err)
			}
			if d := v.Damage[0]; d.Place != tc.place || !strings.Contains(d.Problem, tc.problem) || d.Repaired != "" {
				t.Errorf("found %+v", d)
			}
			v, err = m.Verify(t.Context(), VerifyOptions{Repair: true})
			if err != nil || !v.Whole() || v.Damage[0].Repaired != tc.repaired {
				t.Errorf("repair: %+v, %v", v, err)
			}
			v, err = m.Verify(t.Context(), VerifyOptions{})
			if err != nil || len(v.Damage) != 0 {
				t.Errorf("after: %+v, %v", v, err)
			}
			if _, err := bootable(disk, "uefi"); err != nil {
				t.Error(err)
			}
		})
	}
}

// What is damaged everywhere comes from where the release's image was, whatever kind of place that is.
func TestVerifyRepairsFromTheImage(t *testing.T) {
	img, _, _ := threeImages(t)
	file := filepath.Join(t.TempDir(), "os.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := errors.Join(w.AddFS(os.DirFS(img.dir)), w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(file))
	for name, where := range map[string]source.Ref{
		"layout":        img.source(),
		"archive":       {Kind: source.OCIArchive, Name: file},
		"relative path": {Kind: source.OCIArchive, Name: "os.tar"},
	} {
		t.Run(name, func(t *testing.T) {
			from, label := img, where.Label()
			from.ref = where
			m := install(t, t.TempDir(), "uefi", t.TempDir(), from)
			r, err := m.State.Release(img.id)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range []*store.Store{m.State, m.Recovery} {
				rot(t, s.BlobPath(r.Layers[0].DiffID))
			}
			t.Chdir("/") // verify runs from a timer
			v, err := m.Verify(t.Context(), VerifyOptions{Repair: true})
			if err != nil || !v.Whole() || v.Damage[0].Repaired != "fetched again from "+label {
				t.Errorf("%+v, %v", v, err)
			}
			if v, err := m.Verify(t.Context(), VerifyOptions{}); err != nil || len(v.Damage) != 0 {
				t.Errorf("after: %+v, %v", v, err)
			}
		})
	}
}

// What is damaged everywhere, and has no image any more, is said with what to do.
func TestVerifyWithoutAnySource(t *testing.T) {
	img, _, _ := threeImages(t)
	m := install(t, t.TempDir(), "uefi", t.TempDir(), img)
	if err := os.RemoveAll(img.dir); err != nil {
		t.Fatal(err)
	}
	r, err := m.State.Release(img.id)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*store.Store{m.State, m.Recovery} {
		rot(t, s.BlobPath(r.Layers[0].DiffID))
	}
	v, err := m.Verify(t.Context(), VerifyOptions{Repair: true})
	var damaged *DamagedError
	if !errors.As(err, &damaged) || v.Whole() {
		t.Fatalf("%+v, %v", v, err)
	}
	if !slices.ContainsFunc(v.Damage, func(d api.Damage) bool {
		return d.Repaired == "" && strings.Contains(d.Advice, "Upgrade to another image")
	}) {
		t.Errorf("no advice: %+v", v.Damage)
	}
}

// A layer that has rotted on the disk does not become a part of a new release: the upgrade replaces it, by RECOVERY's
// bytes or by the image's own.
func TestUpgradeTakesOverNoRottenLayer(t *testing.T) {
	a, b, _ := threeImages(t)
	for name, everywhere := range map[string]bool{"STATE": false, "STATE and RECOVERY": true} {
		t.Run(name, func(t *testing.T) {
			disk := t.TempDir()
			m := install(t, disk, "uefi", t.TempDir(), a)
			r, err := m.State.Release(a.id)
			if err != nil {
				t.Fatal(err)
			}
			rot(t, m.State.BlobPath(r.Layers[0].DiffID))
			if everywhere {
				rot(t, m.Recovery.BlobPath(r.Layers[0].DiffID))
			}
			if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{a.id, b.id} {
				if err := m.State.VerifyRelease(id); err != nil {
					t.Error(err)
				}
			}
			// What cannot be copied to RECOVERY is taken from the image.
			rot(t, m.State.BlobPath(r.Layers[0].DiffID))
			if !everywhere {
				if err := os.Remove(m.Recovery.BlobPath(r.Layers[0].DiffID)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source(), Recovery: true}); err != nil {
				t.Fatal(err)
			}
			if err := m.Recovery.VerifyRelease(b.id); err != nil {
				t.Error(err)
			}
		})
	}
}
