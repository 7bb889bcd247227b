package node

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/internal/tpm"
	"github.com/kairos-buildkit/kairos/internal/tpm/tpmtest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/trust/sign"
	"github.com/kairos-buildkit/kairos/trust/trusttest"
)

// withTPM gives a machine a TPM.
func withTPM(t *testing.T, machines ...*Machine) {
	t.Helper()
	connect := tpmtest.Start(t)
	for _, m := range machines {
		m.openTPM = func(string) (*tpm.TPM, error) { return tpm.On(connect()), nil }
	}
}

// epoch gives a release of a store an epoch, and has a key sign it.
func epoch(t *testing.T, s *store.Store, id string, n int64, key sign.Key) layout.Release {
	t.Helper()
	r, err := s.Release(id)
	if err != nil {
		t.Fatal(err)
	}
	r.Epoch, r.Arch = n, runtime.GOARCH
	r.Signatures = trusttest.Signed(t, r, key)
	for name, b := range map[string][]byte{
		layout.ReleasePath(id): must(t, r), layout.ReleaseSignaturesPath(id): r.Signatures,
	} {
		if err := os.WriteFile(filepath.Join(s.Dir(), name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func held(t *testing.T, m *Machine, want tpm.Floors) {
	t.Helper()
	if f, err := m.floors(); err != nil || f != want {
		t.Errorf("the TPM holds %+v, %v, want %+v", f, err, want)
	}
}

// A release that is blessed raises the lowest epoch in the TPM, and nothing older is taken from then on: whatever the
// running system's trust.json says. Until then the release below is what is fallen back to.
func TestSealedEpochInTPM(t *testing.T) {
	a, b := large(t)
	key := newKey(t)
	anchor := anchorOf(key)
	anchor.TPM = true
	_, src, art := beside(t, install(t, t.TempDir(), "uefi", t.TempDir(), a), b)
	signs(t, src, art, key) // of epoch 0
	disk := t.TempDir()
	m := install(t, disk, "uefi", t.TempDir(), a)
	bootedFrom(t, m, disk)
	withTPM(t, m)
	check := func(want string) {
		t.Helper()
		c, err := m.CheckUpgrade(t.Context(), CheckOptions{UpgradeOptions: UpgradeOptions{Source: src}})
		if err != nil || (c.Outcome == api.OutcomeRefused) != (want != "") || !strings.Contains(c.Reason, want) {
			t.Errorf("check: %+v, %v, want %q", c, err, want)
		}
	}
	epoch(t, m.State, a.id, 2, key)
	bless := func(problem string) {
		t.Helper()
		r, err := m.Bless(Verdict{})
		if err != nil || !strings.Contains(strings.Join(r.Problems, "\n"), problem) ||
			problem == "" && len(r.Problems) > 0 {
			t.Errorf("%+v, %v, want the problem %q", r, err, problem)
		}
	}

	// Nothing is raised where nothing asks for it, by what only warns, or by what is not signed.
	bless("")
	seal(t, m, anchorOf(key))
	bless("")
	warns := anchor
	warns.Warn = true
	seal(t, m, warns)
	bless("")
	stranger := anchorOf(newKey(t))
	stranger.TPM = true
	seal(t, m, stranger)
	bless("it has not signed")
	held(t, m, tpm.Floors{})
	seal(t, m, anchor)
	check("")

	bless("")
	held(t, m, tpm.Floors{System: 2})
	const refused = "its epoch is 0, and 2 is the lowest"
	check(refused)
	before := names(t, m.State.Dir())
	_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src})
	wantRefused(t, err, refused)
	if now := names(t, m.State.Dir()); len(now) != len(before) {
		t.Errorf("STATE has changed: %q, before %q", now, before)
	}
	s, err := m.Status()
	if err != nil || s.Trust.TPM == nil || *s.Trust.TPM != (api.TPM{State: api.TPMReady, Epoch: 2}) ||
		s.Active.Refused != "" {
		t.Errorf("%+v, %v", s, err)
	}

	// The recovery system has its own, and an older one is not refused by the system's.
	old := epoch(t, m.Recovery, a.id, 1, key)
	if err := m.raiseFloor(old, layout.RoleRecovery); err != nil {
		t.Fatal(err)
	}
	held(t, m, tpm.Floors{System: 2, Recovery: 1})
	if err := m.trusted(old, nil, old.UKI, nil, layout.RoleRecovery); err != nil {
		t.Error(err)
	}
	for _, roles := range [][]string{{layout.RoleSystem}, everywhere} {
		wantRefused(t, m.trusted(old, nil, old.UKI, nil, roles...), "its epoch is 1, and 2 is the lowest")
	}
	// What the release's own /init would refuse is refused by a system that asks for nothing.
	if err := os.Remove(m.path(layout.RunTrust)); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, m.trusted(old, &anchor, old.UKI, nil, layout.RoleSystem), "the release itself asks")

	// A TPM that breaks takes nothing with it, and is told of.
	seal(t, m, anchor)
	m.openTPM = func(string) (*tpm.TPM, error) { return nil, errors.New("it is broken") }
	check("")
	bless("it is broken")
	s, err = m.Status()
	if err != nil || *s.Trust.TPM != (api.TPM{State: api.TPMFailed, Problem: "it is broken"}) {
		t.Errorf("%+v, %v", s.Trust.TPM, err)
	}
	m.openTPM = tpm.Open // there is no /dev/tpmrm0
	check("")
	bless("")
	if s, err = m.Status(); err != nil || *s.Trust.TPM != (api.TPM{State: api.TPMNone}) {
		t.Errorf("%+v, %v", s.Trust.TPM, err)
	}
}

// A status asks the TPM once, however many releases it tells of: one that does not answer takes ten seconds.
func TestStatusAsksTheTPMOnce(t *testing.T) {
	a, b, _ := threeImages(t)
	m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
		t.Fatal(err)
	}
	anchor := anchorOf(newKey(t))
	anchor.TPM = true
	seal(t, m, anchor)
	asked := 0
	m.openTPM = func(string) (*tpm.TPM, error) { asked++; return nil, errors.New("it is broken") }
	s, err := m.Status()
	if err != nil || s.Active == nil || s.Passive == nil || s.Recovery == nil || asked != 1 {
		t.Errorf("asked %d times: %+v, %v", asked, s, err)
	}
}

// A status that mounts nothing has what the TPM holds, too.
func TestLookAtTPM(t *testing.T) {
	root := t.TempDir()
	m := &Machine{Root: root, Boot: layout.Boot{Role: layout.RoleLive, Release: idA, Firmware: layout.FirmwareUEFI}}
	anchor := anchorOf(newKey(t))
	anchor.TPM = true
	seal(t, m, anchor)
	if err := os.WriteFile(m.path(layout.RunBoot), m.Boot.Marshal(), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Look(root)
	if err != nil || s.Trust == nil || s.Trust.TPM == nil || *s.Trust.TPM != (api.TPM{State: api.TPMNone}) {
		t.Errorf("%+v, %v", s.Trust, err)
	}
}
