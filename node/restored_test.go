package node

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/store"
)

// What writes the boot files of a release that is here already, writes none of one whose list was exchanged, nor of
// words that nobody signed: a repair of the recovery system, of a boot entry, a reset, a second start of a trial.
func TestSealedRestoresNothingHostile(t *testing.T) {
	keys, anchor := threeKeys(t)
	a, b, _ := threeImages(t)
	type door struct {
		recovery bool // whose list is exchanged
		open     func(m *Machine) error
	}
	doors := map[string]door{
		"upgrade --recovery": {true, func(m *Machine) error {
			_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: a.source(), Recovery: true})
			return err
		}},
		"reset": {true, func(m *Machine) error {
			_, err := asRecovery(m, a.id, false).Reset(t.Context(), ResetOptions{})
			return err
		}},
		"another trial": {true, func(m *Machine) error {
			_, err := m.tryAgain(context.Background(), api.Result{Release: a.id}, nil)
			return err
		}},
	}
	for name, d := range doors {
		for how, evil := range map[string]func(*layout.Release, *loader.BootFiles, *bootFacts){
			"another list": func(r *layout.Release, _ *loader.BootFiles, _ *bootFacts) { r.Version = "evil" },
			"another UKI": func(_ *layout.Release, f *loader.BootFiles, facts *bootFacts) {
				f.UKI, facts.uki = []byte("evil"), layout.SHA256([32]byte{6})
			},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				disk := t.TempDir()
				m := install(t, disk, "uefi", t.TempDir(), a)
				for _, s := range []*store.Store{m.State, m.Recovery} {
					r, err := s.Release(a.id)
					if err != nil {
						t.Fatal(err)
					}
					r, _ = hostileList{}.apply(t, r, keys)
					if s == m.Recovery {
						evil(&r, &loader.BootFiles{}, &bootFacts{})
					}
					leave(t, s, a.id, r)
				}
				m.bootFiles = func(s *store.Store, r layout.Release, p Progress) (loader.BootFiles, bootFacts, error) {
					files, facts, err := fakeBootFiles(s, r, p)
					if s == m.Recovery {
						evil(&layout.Release{}, &files, &facts)
					}
					return files, facts, err
				}
				seal(t, m, anchor)
				before := content(t, disk)
				wantRefused(t, d.open(m), "the running system asks for signatures")
				sameContent(t, name, disk, before)
			})
		}
	}
	t.Run("verify --repair", func(t *testing.T) {
		disk := t.TempDir()
		m := install(t, disk, "uefi", t.TempDir(), a)
		r, err := m.State.Release(a.id)
		if err != nil {
			t.Fatal(err)
		}
		r, _ = hostileList{}.apply(t, r, keys)
		leave(t, m.State, a.id, r)
		leave(t, m.Recovery, a.id, r)
		seal(t, m, anchor)
		entries, err := filepath.Glob(filepath.Join(disk, espDir, layout.UKIDir, "*+*"+".efi"))
		if err != nil || len(entries) != 1 {
			t.Fatalf("%q, %v", entries, err)
		}
		rotten := func() {
			if err := os.WriteFile(entries[0], []byte("rotten"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		rotten()
		if v, err := m.Verify(t.Context(), VerifyOptions{Repair: true}); err != nil || len(v.Damage) != 1 {
			t.Fatalf("what is signed is not repaired: %+v, %v", v, err)
		}
		r.Version = "evil"
		leave(t, m.State, a.id, r)
		rotten()
		before := content(t, disk)
		v, err := m.Verify(t.Context(), VerifyOptions{Repair: true})
		if err == nil || len(v.Damage) == 0 || !strings.Contains(v.Damage[0].Advice, "asks for signatures") {
			t.Errorf("%+v, %v", v, err)
		}
		sameContent(t, "verify --repair", disk, before)
	})
	// An upgrade of recovery that is refused leaves no layer there, which STATE has.
	t.Run("layers that STATE has", func(t *testing.T) {
		disk := t.TempDir()
		m := install(t, disk, "uefi", t.TempDir(), a)
		_, src, _ := beside(t, install(t, t.TempDir(), "uefi", t.TempDir(), a), b)
		if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src}); err != nil {
			t.Fatal(err)
		}
		seal(t, m, anchor)
		before := content(t, disk)
		_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src, Recovery: true, NoTrial: true})
		wantRefused(t, err, "it is not signed")
		sameContent(t, "upgrade --recovery", disk, before)
	})
}
