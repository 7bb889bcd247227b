package node

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

func TestUpgradeAndFallBack(t *testing.T) {
	for _, firmware := range []string{"uefi", "bios"} {
		t.Run(firmware, func(t *testing.T) {
			a, b, c := threeImages(t)
			disk, cache := t.TempDir(), t.TempDir()
			m := install(t, disk, firmware, cache, a)
			r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()})
			if err != nil {
				t.Fatal(err)
			}
			if r.Release != b.id || !r.Changed || r.Version != "v1" || !RestartWanted(m.Root) {
				t.Errorf("result %+v, restart wanted: %v", r, RestartWanted(m.Root))
			}
			order, err := bootable(disk, firmware)
			if err != nil {
				t.Fatal(err)
			}
			if len(order) != 3 || order[0].ID != b.id || order[0].Left != layout.Tries || order[1].ID != a.id || order[1].Counted || order[2].Seq != 0 {
				t.Fatalf("boots %v", order)
			}
			// The same again changes nothing.
			if r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil || r.Changed {
				t.Errorf("again: %+v, %v", r, err)
			}
			// It uses up its tries: the loader goes back, and status says so.
			useUp(t, m, b.id)
			s, err := m.Status()
			if err != nil {
				t.Fatal(err)
			}
			if s.Active.Release != a.id || len(s.Failed) != 1 || s.Failed[0].Release != b.id || s.Failed[0].TriesUsed != 3 {
				t.Errorf("status %+v", s)
			}
			// Who repeats the command by himself does not try it again.
			_, err = m.Upgrade(t.Context(), UpgradeOptions{Source: b.source(), UnlessFailed: true})
			var refused *RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), "has failed on this node") {
				t.Errorf("upgrade to a release that failed: %v", err)
			}
			// The next upgrade removes the failed one, keeps the booted one, brings its loader.
			r, err = m.Upgrade(t.Context(), UpgradeOptions{Source: c.source()})
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Removed) != 1 || r.Removed[0] != b.id {
				t.Errorf("removed %v", r.Removed)
			}
			if b, err := os.ReadFile(filepath.Join(disk, espDir, "EFI/BOOT/BOOTX64.EFI")); err != nil || string(b) != "loader 2" {
				t.Errorf("loader %q, %v", b, err)
			}
			// Booted and blessed: then it is the one known good, and a the passive one.
			m = fakeMachine(t, disk, firmware, c.id, cache, nil)
			if got, err := m.Bless(t.Context()); err != nil || got.Outcome != "blessed" {
				t.Fatalf("%+v, %v", got, err)
			}
			order, err = bootable(disk, firmware)
			if err != nil || len(order) != 3 || order[0].ID != c.id || order[0].Counted || order[1].ID != a.id {
				t.Errorf("boots %v, %v", order, err)
			}
			// And back.
			if _, err := m.Rollback(t.Context(), "", nil); err != nil {
				t.Fatal(err)
			}
			order, err = bootable(disk, firmware)
			if err != nil || len(order) != 3 || order[0].ID != a.id || order[0].Left != layout.Tries || order[1].ID != c.id {
				t.Errorf("boots %v, %v", order, err)
			}
			// To the one that runs: there is nothing to restart for any more.
			if _, err := m.Rollback(t.Context(), c.id, nil); err != nil || RestartWanted(m.Root) {
				t.Errorf("rollback to the running release: %v, restart wanted: %v", err, RestartWanted(m.Root))
			}
			noLeftovers(t, disk)
		})
	}
}

// useUp does what the loader does when a release does not come up.
func useUp(t testing.TB, m *Machine, id string) {
	t.Helper()
	slots, err := m.ESP.Slots()
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range slots.Entries {
		if e.ID == id && e.Counted {
			slots.Entries[i].Left, slots.Entries[i].Done = 0, layout.Tries
		}
	}
	if m.ESP.BIOS {
		err = m.ESP.writeGrub(newSlots(all(slots)))
	} else {
		err = m.ESP.writeNames(newSlots(all(slots)))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// noLeftovers fails where a file is left that nobody needs.
func noLeftovers(t testing.TB, disk string) {
	t.Helper()
	err := filepath.WalkDir(disk, func(path string, d os.DirEntry, err error) error {
		if err == nil && (strings.HasPrefix(d.Name(), ".tmp-") || strings.HasSuffix(d.Name(), ".tmp")) {
			t.Errorf("left over: %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRollbackToTheFailedOneOnPurpose(t *testing.T) {
	a, b, _ := threeImages(t)
	disk := t.TempDir()
	m := install(t, disk, "uefi", t.TempDir(), a)
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
		t.Fatal(err)
	}
	useUp(t, m, b.id)
	if err := m.reportFailure(b.id, "health check x: exit status 1", "log"); err != nil {
		t.Fatal(err)
	}
	if s, err := m.Status(); err != nil || s.Failed[0].Failure == nil || s.Failed[0].Failure.Reason != "health check x: exit status 1" {
		t.Errorf("%+v, %v", s.Failed, err)
	}
	if _, err := m.Rollback(t.Context(), b.id, nil); err != nil {
		t.Fatal(err)
	}
	order, err := bootable(disk, "uefi")
	if err != nil || order[0].ID != b.id || order[0].Left != layout.Tries || order[1].ID != a.id {
		t.Errorf("boots %v, %v", order, err)
	}
	if s, err := m.Status(); err != nil || len(s.Failed) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestUpgradeRefuses(t *testing.T) {
	a, b, _ := threeImages(t)
	disk, cache := t.TempDir(), t.TempDir()
	m := install(t, disk, "uefi", cache, a)
	damaged := newImage(t, runtime.GOARCH, b.layers...)
	blobs, err := filepath.Glob(filepath.Join(damaged.dir, "blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range blobs { // the layers: replace each by another one
		if c, err := os.ReadFile(f); err == nil && c[0] == 0x1f {
			other, _ := filepath.Glob(filepath.Join(a.dir, "blobs/sha256/*"))
			for _, o := range other {
				if d, err := os.ReadFile(o); err == nil && d[0] == 0x1f && sum(d) != sum(c) {
					os.WriteFile(f, d, 0o644)
				}
			}
		}
	}
	for name, c := range map[string]struct {
		img     testImage
		refused bool
		says    string
	}{
		"wrong architecture": {img: newImage(t, "s390x", b.layers...), refused: true, says: "s390x"},
		"no layers":          {img: newImage(t, runtime.GOARCH), refused: true, says: "cannot boot"},
		"wrong digest":       {img: damaged, says: "changed or damaged"},
		"no image":           {img: testImage{dir: t.TempDir()}, says: "no OCI image layout"},
	} {
		before, err := os.ReadDir(filepath.Join(disk, espDir, layout.UKIDir))
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.Upgrade(t.Context(), UpgradeOptions{Source: c.img.source()})
		var refused *RefusedError
		if err == nil || errors.As(err, &refused) != c.refused || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		after, _ := os.ReadDir(filepath.Join(disk, espDir, layout.UKIDir))
		if len(after) != len(before) {
			t.Errorf("%s: the ESP was changed", name)
		}
		if order, err := bootable(disk, "uefi"); err != nil || order[0].ID != a.id {
			t.Errorf("%s: boots %v, %v", name, order, err)
		}
		noLeftovers(t, disk)
	}
	// An image without boot layer is found out by what is in it.
	plain := newImage(t, runtime.GOARCH, b.layers[0])
	m.bootFiles = readBootFiles
	_, err = m.Upgrade(t.Context(), UpgradeOptions{Source: plain.source()})
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "no boot layer") {
		t.Errorf("no boot layer: %v", err)
	}
}
