package node

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/kairos-buildkit/kairos/disk"
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
	release, err := m.Recovery.Release(a.id)
	if err != nil {
		t.Fatal(err)
	}
	files, done, err := storeFiles(m.Recovery, release)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	image, err := (&disk.Ext4{Label: "COS_RECOVERY", Size: 64 << 20, Files: files}).Image()
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
	quiet := *m
	quiet.Recovery = nil
	quiet.Boot.Devices = map[string]string{"recovery": f.Name()}
	if err := quiet.Remember(); err != nil {
		t.Fatal(err)
	}
	known, err := quiet.known()
	want.Recovery.Image = "" // an installation does not write where it came from
	if got := known[a.id]; err != nil || !reflect.DeepEqual(got, *want.Recovery) {
		t.Errorf("got %+v, %v\nwant %+v", known, err, *want.Recovery)
	}
}
