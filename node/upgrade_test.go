package node

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
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
			if len(order) != 3 || order[0].ID != b.id || order[0].Left != layout.Tries ||
				order[1] != layout.Blessed(1, a.id) ||
				order[2].Seq != 0 {
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
			if s.Active.Release != a.id || len(s.Failed) != 1 || s.Failed[0].Release != b.id ||
				s.Failed[0].TriesUsed != 3 {
				t.Errorf("status %+v", s)
			}
			// Who repeats the command by himself does not try it again.
			_, err = m.Upgrade(t.Context(), UpgradeOptions{Source: b.source(), UnlessFailed: true})
			var refused *RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), "has failed on this node") {
				t.Errorf("upgrade to a release that failed: %v", err)
			}
			// The next upgrade removes the failed one and keeps the booted one.
			r, err = m.Upgrade(t.Context(), UpgradeOptions{Source: c.source()})
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Removed) != 1 || r.Removed[0] != b.id {
				t.Errorf("removed %v", r.Removed)
			}
			bootLoader := func(want string) {
				t.Helper()
				if b, err := os.ReadFile(filepath.Join(disk, espDir, "EFI/BOOT/BOOTX64.EFI")); err != nil ||
					string(b) != want {
					t.Errorf("loader %q, %v, want %q", b, err, want)
				}
			}
			bootLoader("loader 1") // until the release has proved healthy
			// Booted and blessed: then it is the one known good, and a the passive one.
			m = fakeMachine(t, disk, firmware, c.id, cache, nil)
			if got, err := bless(t.Context(), m); err != nil || got.Outcome != "blessed" {
				t.Fatalf("%+v, %v", got, err)
			}
			bootLoader("loader 2")
			order, err = bootable(disk, firmware)
			if err != nil || len(order) != 3 || order[0].ID != c.id || order[0].Left != layout.BlessedTries ||
				order[1].ID != a.id {
				t.Errorf("boots %v, %v", order, err)
			}
			// And back.
			if _, err := m.Rollback(t.Context(), "", nil); err != nil {
				t.Fatal(err)
			}
			order, err = bootable(disk, firmware)
			if err != nil || len(order) != 3 || order[0].ID != a.id || order[0].Left != layout.Tries ||
				order[1].ID != c.id {
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

// use does what the loader does at each start of a release, so many times.
func use(t testing.TB, m *Machine, id string, times uint8) {
	t.Helper()
	state, err := m.ESP.State()
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range state.Entries {
		if n := min(times, e.Left); e.ID == id {
			state.Entries[i].Left, state.Entries[i].Done = e.Left-n, e.Done+n
		}
	}
	if err := m.ESP.Decides.Set(m.ESP.Volume, loader.NewState(state.All())); err != nil {
		t.Fatal(err)
	}
}

// A release that was blessed and does not come up any more is given up after nine starts, whoever decides; a healthy
// boot gives it all of them back, and writes nothing where none was used.
func TestBlessedIsNineTries(t *testing.T) {
	for _, firmware := range []string{"uefi", "bios"} {
		t.Run(firmware, func(t *testing.T) {
			a, b, _ := threeImages(t)
			disk, cache := t.TempDir(), t.TempDir()
			m := install(t, disk, firmware, cache, a)
			if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
				t.Fatal(err)
			}
			m = fakeMachine(t, disk, firmware, b.id, cache, nil)
			expect := func(what string, first string, left int) {
				t.Helper()
				order, err := bootable(disk, firmware)
				if err != nil || order[0].ID != first || int(order[0].Left) != left {
					t.Errorf("%s: boots %v, %v", what, order, err)
				}
			}
			use(t, m, b.id, 1)
			if _, err := bless(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			expect("blessed", b.id, 9)
			use(t, m, b.id, 8)
			expect("eight starts later", b.id, 1)
			if _, err := bless(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			expect("healthy again", b.id, 9)
			steps := 0
			m.ESP.FS = &durable.FS{Before: func(durable.Step) error { steps++; return nil }}
			if got, err := bless(t.Context(), m); err != nil || got.Outcome != "good already" || steps != 0 {
				t.Errorf("nothing was used: %+v, %v, %d steps", got, err, steps)
			}
			use(t, m, b.id, 9)
			expect("nine starts later", a.id, 9)
			if s, err := m.Status(); err != nil || len(s.Failed) != 1 || s.Failed[0].Release != b.id {
				t.Errorf("status %+v, %v", s, err)
			}
			// The passive one has failed as well: then it is recovery's turn.
			use(t, m, a.id, 9)
			if order, err := bootable(disk, firmware); err != nil || len(order) != 1 ||
				order[0].Seq != layout.RecoverySeq {
				t.Errorf("boots %v, %v", order, err)
			}
		})
	}
}

// What was blessed by a version that took the counter off stays blessed, and gets one.
func TestBlessedWithoutCounter(t *testing.T) {
	for _, firmware := range []string{"uefi", "bios"} {
		a, b, _ := threeImages(t)
		disk := t.TempDir()
		m := install(t, disk, firmware, t.TempDir(), a)
		state, err := m.ESP.State()
		if err != nil {
			t.Fatal(err)
		}
		state.Entries[0] = layout.Entry{Seq: state.Entries[0].Seq, ID: a.id}
		for _, l := range []loader.Loader{m.ESP.Decides, m.ESP.Copy} {
			if err := l.Set(m.ESP.Volume, state); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := m.Status(); err != nil || !s.Active.Blessed {
			t.Errorf("%s: %+v, %v", firmware, s.Active, err)
		}
		if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
			t.Fatal(err)
		}
		if order, err := bootable(disk, firmware); err != nil || len(order) != 3 || order[1].ID != a.id {
			t.Errorf("%s: boots %v, %v", firmware, order, err)
		}
		if got, err := bless(t.Context(), m); err != nil || got.Outcome != "good already" {
			t.Errorf("%s: %+v, %v", firmware, got, err)
		}
		if order, err := bootable(disk, firmware); err != nil || order[1].Left != layout.BlessedTries {
			t.Errorf("%s: boots %v, %v", firmware, order, err)
		}
	}
}

// A recovery system of the same release with a damaged UKI is repaired by the command that brings it.
func TestDamagedRecoveryIsRepaired(t *testing.T) {
	for _, firmware := range []string{"uefi", "bios"} {
		a, b, _ := threeImages(t)
		disk := t.TempDir()
		m := install(t, disk, firmware, t.TempDir(), a)
		if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{
			layout.UKIDir + "/" + layout.Entry{ID: a.id}.String(), layout.GrubKernelDir + "/" + a.id + "/initrd",
		} {
			if err := os.WriteFile(filepath.Join(disk, espDir, name), []byte("rotten"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: a.source(), Recovery: true}); err != nil {
			t.Fatal(err)
		}
		if order, err := bootable(disk, firmware); err != nil || order[len(order)-1].ID != a.id {
			t.Errorf("%s: boots %v, %v", firmware, order, err)
		}
		noLeftovers(t, disk)
	}
}

// useUp does what the loader does when a release does not come up.
func useUp(t testing.TB, m *Machine, id string) {
	t.Helper()
	use(t, m, id, layout.BlessedTries)
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
	if s, err := m.Status(); err != nil || s.Failed[0].Failure == nil ||
		s.Failed[0].Failure.Reason != "health check x: exit status 1" {
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
		"no layers":          {img: newImage(t, runtime.GOARCH), refused: true, says: "no layers"},
		"wrong digest":       {img: damaged, says: "it is damaged"},
		"no image":           {img: testImage{dir: t.TempDir()}, says: "neither index.json (OCI layout)"},
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
