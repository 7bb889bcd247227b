package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// An image whose ID begins as another's is not taken for it, and does not take its place.
func TestUpgradeRefusesAnIDThatAnotherReleaseHas(t *testing.T) {
	for name, place := range map[string]func(*Machine) *store.Store{
		"state":    func(m *Machine) *store.Store { return m.State },
		"recovery": func(m *Machine) *store.Store { return m.Recovery },
	} {
		for _, recovery := range []bool{false, true} {
			a, b, _ := threeImages(t)
			m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
			forged, err := place(m).Release(a.id)
			if err != nil {
				t.Fatal(err)
			}
			forged.Config = layout.Digest("sha256:" + b.id + strings.Repeat("0", 64-layout.IDLength))
			if err := place(m).AddRelease(forged); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(place(m).Dir(), layout.ReleasePath(b.id))
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source(), Recovery: recovery})
			var refused *RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), "begins with the same digits") {
				t.Errorf("%s, upgrade of recovery %v: %+v, %v", name, recovery, r, err)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("%s: the other release is %q, %v", name, after, err)
			}
		}
	}
}
