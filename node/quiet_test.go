package node

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/layout"
)

// A healthy boot of a blessed release writes to the ESP alone, so that nothing else is mounted for it.
func TestBlessNeedsTheESPAlone(t *testing.T) {
	for _, firmware := range []string{layout.FirmwareUEFI, layout.FirmwareBIOS} {
		a, b, _ := threeImages(t)
		dir, cache := t.TempDir(), t.TempDir()
		m := install(t, dir, firmware, cache, a)
		healthy := Verdict{}
		check := func(what string, m *Machine, v Verdict, want bool) {
			t.Helper()
			state, err := m.ESP.State()
			if err != nil {
				t.Fatal(err)
			}
			state0 := filepath.Join(dir, stateDir)
			if got := blessesOnESP(m.Boot, os.DirFS(state0), state, v); got != want {
				t.Errorf("%s, %s: %v, want %v", firmware, what, got, want)
			}
			if !want {
				return
			}
			// It does what it does on a STATE that refuses each change.
			readOnly := *m
			readOnly.FS = &durable.FS{Before: func(s durable.Step) error {
				if rel, err := filepath.Rel(state0, s.Path); err == nil && filepath.IsLocal(rel) {
					t.Errorf("%s, %s: STATE is changed: %v", firmware, what, s)
				}
				return nil
			}}
			readOnly.Recovery, readOnly.OEM, readOnly.Cache = nil, "", ""
			if got, err := readOnly.Bless(v); err != nil || got.Outcome != "good already" {
				t.Errorf("%s, %s: %+v, %v", firmware, what, got, err)
			}
			if err := errors.Join(readOnly.CollectPanic(), readOnly.Banner()); err != nil {
				t.Errorf("%s, %s: %v", firmware, what, err)
			}
			if order, err := bootable(dir, firmware); err != nil || order[0].Left != layout.BlessedTries {
				t.Errorf("%s, %s: boots %v, %v", firmware, what, order, err)
			}
		}
		use(t, m, a.id, 1)
		check("one try is used", m, healthy, true)
		check("unhealthy", m, Verdict{Err: &UnhealthyError{Reason: "x"}}, false)
		if err := m.reportFailure(a.id, "an earlier try", ""); err != nil {
			t.Fatal(err)
		}
		check("an earlier try was reported", m, healthy, false)
		if _, err := m.Bless(healthy); err != nil {
			t.Fatal(err)
		}
		check("the report is gone", m, healthy, true)
		if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
			t.Fatal(err)
		}
		check("on trial", fakeMachine(t, dir, firmware, b.id, cache, nil), healthy, false)
		useUp(t, m, b.id)
		check("the other one failed without a report", m, healthy, false)
		if err := m.reportFailure(b.id, "a panic", ""); err != nil {
			t.Fatal(err)
		}
		check("the other one failed with one", m, healthy, true)
		recovery := *m
		recovery.Boot.Role = layout.RoleRecovery
		check("recovery", &recovery, healthy, false)
	}
}

// What RECOVERY holds is known without a mount.
func TestRecoveryIsReadWithoutAMount(t *testing.T) {
	a, _, _ := threeImages(t)
	m := install(t, t.TempDir(), layout.FirmwareUEFI, t.TempDir(), a)
	want, err := m.Status()
	if err != nil || want.Recovery == nil || want.Recovery.Version == "" {
		t.Fatalf("%+v, %v", want, err)
	}
	device := recoveryVolume(t, m, a.id)
	quiet := *m
	quiet.Recovery = nil
	quiet.Boot.Devices = map[string]string{"recovery": device}
	if err := quiet.Remember(); err != nil {
		t.Fatal(err)
	}
	known, err := quiet.known()
	want.Recovery.Image = "" // an installation does not write where it came from
	if got := known[a.id]; err != nil || !reflect.DeepEqual(got, *want.Recovery) {
		t.Errorf("got %+v, %v\nwant %+v", known, err, *want.Recovery)
	}
}

// recoveryVolume is an ext4 file system in a file, with a release of the machine's RECOVERY, and files beside it.
func recoveryVolume(t *testing.T, m *Machine, id string, more ...filetree.File) string {
	t.Helper()
	release, err := m.Recovery.Release(id)
	if err != nil {
		t.Fatal(err)
	}
	files, done, err := storeFiles(m.Recovery, release)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	image, err := (&disk.Ext4{Label: "COS_RECOVERY", Size: 64 << 20, Files: append(files, more...)}).Image()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "recovery"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(image.WriteOver(t.Context(), f, 0), f.Truncate(64<<20)); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// Whether there is anything to remove is known without a mount: from the ESP's and RECOVERY's devices, and from the
// store that was booted.
func TestCleanMountsNothing(t *testing.T) {
	for _, firmware := range []string{layout.FirmwareUEFI, layout.FirmwareBIOS} {
		a, b, _ := threeImages(t)
		dir := t.TempDir()
		m := install(t, dir, firmware, t.TempDir(), a)
		release, err := m.State.Release(a.id)
		if err != nil {
			t.Fatal(err)
		}
		v := onFAT(t, m, dir, release)
		if _, err := m.Bless(Verdict{}); err != nil {
			t.Fatal(err)
		}
		v.Check() // what the directory has is on the volume
		m.Boot.Devices = map[string]string{"efi": v.Image, "recovery": recoveryVolume(t, m, a.id)}
		store := m.path(layout.RunStoreMount)
		if err := errors.Join(os.MkdirAll(filepath.Dir(store), 0o755), os.Symlink(m.State.Dir(), store)); err != nil {
			t.Fatal(err)
		}
		check := func(what string, want bool) {
			t.Helper()
			if err := os.WriteFile(m.path(layout.RunBoot), m.Boot.Marshal(), 0o644); err != nil {
				t.Fatal(err)
			}
			if got, err := Clean(m.Root); got != want || err != nil {
				t.Errorf("%s, %s: clean: %v, %v", firmware, what, got, err)
			}
		}
		create := func(name string) {
			t.Helper()
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte("half"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		remove := func(name string) {
			t.Helper()
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(m.path(layout.RunDir), 0o755); err != nil {
			t.Fatal(err)
		}
		check("installed", true)

		half := filepath.Join(m.State.Dir(), layout.BlobsDir, "sha256", "aa", ".tmp-layer")
		create(half)
		check("an unfinished layer", false)
		remove(half)
		unused := filepath.Join(m.State.Dir(), layout.BlobPath(layout.Digest("sha256:"+strings.Repeat("a", 64))))
		create(unused)
		check("a layer that no release has", false)
		remove(unused)
		folder := filepath.Dir(filepath.Join(m.State.Dir(), layout.ReleasePath(b.id)))
		create(filepath.Join(folder, "release.json"))
		check("a release without an entry", false)
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
		check("as before", true)

		good := m.Boot.Devices["recovery"]
		m.Boot.Devices["recovery"] = recoveryVolume(t, m, a.id, filetree.Bytes(layout.ReleasePath(b.id), []byte("{}")))
		check("another release on RECOVERY", false)
		m.Boot.Devices["recovery"] = filepath.Join(t.TempDir(), "none")
		check("RECOVERY cannot be read", false)
		m.Boot.Devices["recovery"] = good

		left := filepath.Join(v.Dir, layout.UKIDir, "kairos-00000009-"+b.id+"+3-0.tmp")
		create(left)
		v.Check()
		check("an unfinished UKI", false)
		// Its name goes, its clusters stay taken.
		if err := v.Names().Remove(layout.UKIDir, filepath.Base(left)); err != nil {
			t.Fatal(err)
		}
		check("clusters without a name", false)
		if err := v.Names().Reclaim(); err != nil {
			t.Fatal(err)
		}
		check("reclaimed", true)

		if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
			t.Fatal(err)
		}
		v.Check()
		check("an upgrade waits for its start", true)
		// Its tries are used up: what is there stays, as it does when gc runs.
		useUp(t, m, b.id)
		v.Check()
		before, err := Clean(m.Root)
		if err != nil {
			t.Fatal(err)
		}
		gone, err := m.GC(t.Context(), nil)
		if err != nil || before != (len(gone) == 0) {
			t.Errorf("%s: clean: %v, and gc removes %v, %v", firmware, before, gone, err)
		}
		v.Check()
		check("after gc", true)
	}
}
