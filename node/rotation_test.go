package node

import (
	"crypto/sha256"
	"crypto/x509"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
	"github.com/kairos-buildkit/kairos/trust/trusttest"
	"github.com/kairos-buildkit/kairos/uki"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// rotated is an image of a machine's history, with the release beside it.
type rotated struct {
	testImage
	src source.Ref
	art release.Artifact
}

// history are images that follow each other, each of one layer more than the boot layer, in registries of their own.
func history(t *testing.T, names ...string) (all []rotated) {
	t.Helper()
	boot := bootLayer(t, "loader 1")
	image := func(name string) testImage {
		return newImage(t, runtime.GOARCH, tarOf(t, map[string]string{"name": name}), boot)
	}
	any := install(t, t.TempDir(), "uefi", t.TempDir(), image("any"))
	for _, name := range names {
		img := image(name)
		_, src, art := beside(t, any, img)
		all = append(all, rotated{img, src, art})
	}
	return all
}

// takes has a machine upgrade to an image, start it, and find it healthy.
func takes(t *testing.T, m *Machine, img rotated) {
	t.Helper()
	if r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: img.src}); err != nil || !r.Changed {
		t.Fatalf("%+v, %v", r, err)
	}
	m.Boot.Release = img.id
	if _, err := m.Bless(Verdict{}); err != nil {
		t.Fatal(err)
	}
}

// A fleet changes its key for releases by two releases: one that the old key has signed and that trusts both, and one
// that the new key has signed and that trusts it alone. No step can be left out, and there is no way back to the old
// key, but to what both have signed.
func TestReleaseKeyRotation(t *testing.T) {
	was, next := newKey(t), newKey(t)
	images := history(t, "first", "both", "last", "old again")
	first, both, last, again := images[0], images[1], images[2], images[3]
	either := trusttest.Anchor(1, was, next)
	anchors := map[string]trust.Anchor{
		first.id: anchorOf(was), both.id: either, last.id: anchorOf(next), again.id: anchorOf(was),
	}
	for _, c := range []struct {
		img rotated
		by  sign.Key
	}{{first, was}, {both, was}, {last, next}, {again, was}} {
		signs(t, c.img.src, c.img.art, c.by)
	}
	disk := t.TempDir()
	m := install(t, disk, "uefi", t.TempDir(), first.testImage)
	bootedFrom(t, m, disk)
	epoch(t, m.State, first.id, 0, was)
	m.bootFiles = func(s *store.Store, r layout.Release, p Progress) (loader.BootFiles, bootFacts, error) {
		files, facts, err := fakeBootFiles(s, r, p)
		own := anchors[r.ID()]
		facts.anchor = &own
		return files, facts, err
	}
	refused := func(img rotated, whose string) {
		t.Helper()
		_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: img.src})
		wantRefused(t, err, whose)
		_, err = m.State.Release(img.id)
		if err == nil && img.id != both.id {
			t.Errorf("release %s is there", img.id)
		}
	}
	seal(t, m, anchors[first.id])
	refused(last, string(was.ID)+": it has not signed")

	takes(t, m, both)
	seal(t, m, anchors[both.id])
	takes(t, m, last)
	seal(t, m, anchors[last.id])
	refused(again, string(next.ID)+": it has not signed")
	_, err := m.Rollback(t.Context(), both.id, nil)
	wantRefused(t, err, string(next.ID)+": it has not signed")

	// Signed by the new key, too, and fetched again, the release between is one to go back to.
	signs(t, both.src, both.art, next)
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: both.src}); err != nil {
		t.Error(err)
	}
}

// revokes has a machine's firmware refuse certificates and programs.
func revokes(t *testing.T, m *Machine, d secureboot.Database) {
	t.Helper()
	name := filepath.Join(m.path(string(efivars.System)), "dbx-d719b2cb-3d3a-4596-a3bc-dad00e67656f")
	b := append([]byte{0x27, 0, 0, 0}, d.Marshal(secureboot.GUID{})...)
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// An owner changes the key for Secure Boot while machines run: the new certificate goes into db beside the old one,
// then releases are signed by the new key, then dbx names the old certificate. A node takes no release, by upgrade or
// rollback, that its firmware would not start in that moment, for its UKI or for its boot loader; one boot file alone
// is revoked by its digest.
func TestSecureBootRotation(t *testing.T) {
	keys := func(name string) *secureboot.Keys {
		k, err := secureboot.NewKeys(name, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	was, next := keys("old"), keys("new")
	images := history(t, "first", "moved", "half", "last")
	first, moved, half, last := images[0], images[1], images[2], images[3]
	signed := func(by *secureboot.Keys, what, id string) []byte {
		t.Helper()
		b, err := by.DB.Sign(boottest.Program(what + id))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	type by struct{ uki, loader *secureboot.Keys }
	signers := map[string]by{first.id: {was, was}, moved.id: {next, next}, half.id: {next, was}, last.id: {next, next}}
	disk := t.TempDir()
	m := install(t, disk, "uefi", t.TempDir(), first.testImage)
	bootedFrom(t, m, disk)
	m.bootFiles = func(s *store.Store, r layout.Release, p Progress) (loader.BootFiles, bootFacts, error) {
		files, facts, err := fakeBootFiles(s, r, p)
		files.UKI = signed(signers[r.ID()].uki, "uki", r.ID())
		facts.loader = signed(signers[r.ID()].loader, "loader", "")
		return files, facts, err
	}
	refused := func(img rotated, want string) {
		t.Helper()
		_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: img.src})
		wantRefused(t, err, want)
	}
	old, both := was.DB.Certificate, []*x509.Certificate{was.DB.Certificate, next.DB.Certificate}

	enforces(t, m, 1, old)
	refused(moved, "kairos.efi: it is signed by")
	enforces(t, m, 1, both...)
	takes(t, m, moved) // and the old one is what is fallen back to
	if _, err := m.Rollback(t.Context(), first.id, nil); err != nil {
		t.Error(err)
	}
	if _, err := m.Rollback(t.Context(), moved.id, nil); err != nil {
		t.Error(err)
	}

	revoked := secureboot.Database{Certificates: []*x509.Certificate{old}}
	tbs := secureboot.Database{TBS: [][sha256.Size]byte{sha256.Sum256(old.RawTBSCertificate)}}
	for _, d := range []secureboot.Database{revoked, tbs} {
		revokes(t, m, d)
		_, err := m.Rollback(t.Context(), first.id, nil)
		wantRefused(t, err, "dbx revokes \"old db\"")
		refused(half, "systemd-boot.efi: it is signed by \"old db\"")
	}
	sum, err := uki.Authenticode(signed(next, "uki", last.id))
	if err != nil {
		t.Fatal(err)
	}
	revokes(t, m, secureboot.Database{Certificates: revoked.Certificates, Programs: [][sha256.Size]byte{sum}})
	refused(last, "kairos.efi: the firmware's dbx revokes it")
	revokes(t, m, revoked)
	enforces(t, m, 1, next.DB.Certificate)
	takes(t, m, last)
}
