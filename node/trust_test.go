package node

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
	"github.com/kairos-buildkit/kairos/trust/trusttest"
)

func newKey(t *testing.T) sign.Key { return trusttest.Key(t, trust.Ed25519) }

// anchorOf wants all of the keys to have signed.
func anchorOf(keys ...sign.Key) trust.Anchor { return trusttest.Anchor(len(keys), keys...) }

// seal has the running system trust an anchor, as /init leaves it.
func seal(t *testing.T, m *Machine, a trust.Anchor) {
	t.Helper()
	b, err := a.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	name := m.path(layout.RunTrust)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// signs publishes signatures beside an image.
func signs(t *testing.T, src source.Ref, a release.Artifact, keys ...sign.Key) {
	t.Helper()
	repo, _, err := registry.Find(t.Context(), src.Name, registry.Options{AuthFiles: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := sign.Release(a.Release, keys)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := release.AddSignatures(t.Context(), repo, a, s); err != nil {
		t.Fatal(err)
	}
}

// names lists all files below a folder.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func wantRefused(t *testing.T, err error, want string) {
	t.Helper()
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want a refusal with %q", err, want)
	}
}

// refusesUpgrade has a machine refuse a source: a check says so, and upgrades change nothing of STATE. What they fetch
// is counted.
func refusesUpgrade(t *testing.T, m *Machine, reg *hostile, src source.Ref, want string, recovery ...bool) {
	t.Helper()
	before := names(t, m.State.Dir())
	check, err := m.CheckUpgrade(t.Context(), CheckOptions{UpgradeOptions: UpgradeOptions{Source: src}})
	if err != nil || check.Outcome != api.OutcomeRefused || !strings.Contains(check.Reason, want) {
		t.Errorf("check: %+v, %v", check, err)
	}
	reg.reset(nil)
	for _, r := range recovery {
		_, err = m.Upgrade(t.Context(), UpgradeOptions{Source: src, Recovery: r})
		wantRefused(t, err, want)
	}
	if now := names(t, m.State.Dir()); !slices.Equal(now, before) {
		t.Errorf("%s: STATE has changed: %q, before %q", want, now, before)
	}
}

// A sealed node upgrades to what its keys have signed, and refuses everything else before it fetches a block.
func TestSealedUpgrade(t *testing.T) {
	a, b := large(t)
	key, second := newKey(t), newKey(t)
	stranger := newKey(t)
	reg, src, art := beside(t, install(t, t.TempDir(), "uefi", t.TempDir(), a), b)
	fresh := func(anchor trust.Anchor) *Machine {
		disk := t.TempDir()
		m := install(t, disk, "uefi", t.TempDir(), a)
		bootedFrom(t, m, disk)
		seal(t, m, anchor)
		return m
	}
	refused := func(anchor trust.Anchor, src source.Ref, want string) {
		t.Helper()
		refusesUpgrade(t, fresh(anchor), reg, src, want, false)
		if n := reg.blobs[art.Blobs[0].Digest.Encoded()]; n != 0 {
			t.Errorf("%s: %d bytes of a layer were fetched", want, n)
		}
	}
	refused(anchorOf(key), src, "it is not signed")
	signs(t, src, art, stranger)
	refused(anchorOf(key), src, string(key.ID)+": it has not signed")
	refused(anchorOf(key), b.source(), "has no release beside it")
	signs(t, src, art, key)
	refused(anchorOf(key, second), src, string(second.ID))
	late := anchorOf(key)
	late.Epoch = 1
	refused(late, src, "its epoch is 0")

	digest := src
	digest.Name = strings.TrimSuffix(src.Name, ":v2") + "@" + art.Subject.Digest.String()
	for _, ref := range []source.Ref{src, digest} {
		m := fresh(anchorOf(key))
		if r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: ref}); err != nil || !r.Changed {
			t.Fatalf("%s: %+v, %v", ref.Name, r, err)
		}
		r, err := m.State.Release(b.id)
		if err == nil {
			_, err = anchorOf(key).Check(r, runtime.GOARCH)
		}
		if err != nil {
			t.Errorf("%s: what is staged: %v", ref.Name, err)
		}
		// Back to one that nobody has signed.
		if _, err := m.Bless(Verdict{}); err != nil {
			t.Fatal(err)
		}
		_, err = m.Rollback(t.Context(), a.id, nil)
		wantRefused(t, err, "it is not signed")
	}
	warns := anchorOf(second)
	warns.Warn = true
	m := fresh(warns)
	said := ""
	_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src, Progress: func(e Event) { said += e.Text }})
	if err != nil || !strings.Contains(said, "only warns") {
		t.Errorf("%q, %v", said, err)
	}
}

// A node whose system trusts everything takes no release that would not boot, and verify sees one whose signatures
// are gone.
func TestUpgradeToSealed(t *testing.T) {
	a, b := large(t)
	key, stranger := newKey(t), newKey(t)
	_, src, art := beside(t, install(t, t.TempDir(), "uefi", t.TempDir(), a), b)
	sealed := func(s *store.Store, r layout.Release, p Progress) (loader.BootFiles, bootFacts, error) {
		files, facts, err := fakeBootFiles(s, r, p)
		if r.ID() == b.id {
			own := anchorOf(key)
			facts.anchor = &own
		}
		return files, facts, err
	}
	m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	m.bootFiles = sealed
	signs(t, src, art, stranger)
	_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src})
	wantRefused(t, err, "the release itself asks for signatures")
	if _, err := m.State.Release(b.id); err == nil {
		t.Error("the release is there")
	}
	signs(t, src, art, key)
	for _, recovery := range []bool{false, true} {
		if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src, Recovery: recovery}); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []*store.Store{m.State, m.Recovery} {
		r, err := s.Release(b.id)
		if err == nil {
			_, err = anchorOf(key).Check(r, runtime.GOARCH)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if v, err := m.Verify(t.Context(), VerifyOptions{}); err != nil {
		t.Errorf("%+v, %v", v, err)
	}
	name := filepath.Join(m.State.Dir(), layout.ReleaseSignaturesPath(b.id))
	if err := os.WriteFile(name, []byte("rot"), 0o644); err != nil {
		t.Fatal(err)
	}
	v, err := m.Verify(t.Context(), VerifyOptions{})
	if err == nil || len(v.Damage) != 1 || v.Damage[0].Object != layout.ReleaseSignaturesPath(b.id) {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err = m.Verify(t.Context(), VerifyOptions{Repair: true}); err != nil {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err = m.Verify(t.Context(), VerifyOptions{}); err != nil {
		t.Errorf("%+v, %v", v, err)
	}
	// Words that the node adds are in no signed UKI.
	other := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	other.bootFiles = func(s *store.Store, r layout.Release, p Progress) (loader.BootFiles, bootFacts, error) {
		files, facts, err := sealed(s, r, p)
		facts.uki = layout.SHA256([32]byte{1})
		return files, facts, err
	}
	_, err = other.Upgrade(t.Context(), UpgradeOptions{Source: src})
	wantRefused(t, err, "its UKI is")
}

// privateKey reads an ed25519 key's file.
func privateKey(t *testing.T, b []byte) ed25519.PrivateKey {
	t.Helper()
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(ed25519.PrivateKey)
}
