package node

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
)

// The status says who has signed what, by the names of the keys' files, and what would be refused.
func TestSealedStatus(t *testing.T) {
	a, b := large(t)
	m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	key, old, stranger := newKey(t), newKey(t), newKey(t)
	_, src, art := beside(t, install(t, t.TempDir(), "uefi", t.TempDir(), a), b)
	signs(t, src, art, key, stranger)
	if s, err := m.Status(); err != nil || s.Trust != nil || s.Active.Refused != "" {
		t.Errorf("not sealed: %+v, %v", s, err)
	}
	anchor := anchorOf(key, old)
	anchor.Threshold, anchor.Warn = 1, true
	seal(t, m, anchor)
	dir := m.path(layout.ImageTrustDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"release.pub": key.PEM(), "broken.pub": []byte("x"), "policy.json": []byte("{}"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src}); err != nil {
		t.Fatal(err)
	}
	s, err := m.Status()
	if err != nil || s.Trust == nil {
		t.Fatalf("%+v, %v", s, err)
	}
	if s.Trust.Mode != api.TrustWarn || s.Trust.Threshold != 1 || len(s.Trust.Keys) != 2 {
		t.Errorf("%+v", s.Trust)
	}
	for _, want := range []api.Key{
		{ID: string(key.ID), Algorithm: key.Algorithm, Name: "release"},
		{ID: string(old.ID), Algorithm: old.Algorithm},
	} {
		if !slices.Contains(s.Trust.Keys, want) {
			t.Errorf("key %+v is not among %+v", want, s.Trust.Keys)
		}
	}
	by := map[string]bool{}
	for _, x := range s.Active.Signatures {
		by[x.ID] = x.Trusted
	}
	if len(by) != 2 || !by[string(key.ID)] || by[string(stranger.ID)] || s.Active.Refused != "" {
		t.Errorf("active: %+v", s.Active)
	}
	if !strings.Contains(s.Passive.Refused, "it is not signed") || len(s.Passive.Signatures) != 0 {
		t.Errorf("passive: %+v", s.Passive)
	}
	// Signatures that are another release's are worth nothing.
	r, err := m.State.Release(b.id)
	if err != nil {
		t.Fatal(err)
	}
	r.Version += " changed"
	if err := os.WriteFile(filepath.Join(m.State.Dir(), layout.ReleasePath(b.id)), must(t, r), 0o644); err != nil {
		t.Fatal(err)
	}
	if s, err = m.Status(); err != nil || !strings.Contains(s.Active.Refused, "is not one of this release.json") {
		t.Errorf("%+v, %v", s.Active, err)
	}
}

func must(t *testing.T, r layout.Release) []byte {
	t.Helper()
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
