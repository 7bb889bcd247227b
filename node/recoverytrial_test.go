package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/store"
)

// endingTrials are boot files of images that end a trial as a recovery system by themselves.
func endingTrials(s *store.Store, r layout.Release, p Progress) (loader.BootFiles, bootFacts, error) {
	files, facts, err := fakeBootFiles(s, r, p)
	facts.recoveryTrial = true
	return files, facts, err
}

// trying has a machine try recovery systems: its firmware has variables, and its images are of this version.
func trying(t testing.TB, disk string, m *Machine) *Machine {
	t.Helper()
	m.bootFiles = endingTrials
	if err := os.MkdirAll(filepath.Join(disk, "efivars"), 0o755); err != nil {
		t.Fatal(err)
	}
	variables := efivars.Dir(filepath.Join(disk, "efivars"))
	if err := variables.Write("LoaderInfo", efivars.Loader, efivars.FromText("systemd-boot")); err != nil {
		t.Fatal(err)
	}
	return m
}

// asRecovery is the machine when a recovery system runs, on trial or not.
func asRecovery(m *Machine, id string, trial bool) *Machine {
	r := *m
	r.Boot.Role, r.Boot.Release, r.Boot.Trial = layout.RoleRecovery, id, trial
	return &r
}

// startTrial does what the loader does when it starts the recovery system that was chosen: it takes back the
// choice, and counts. It fails the test if something else was to start.
func startTrial(t testing.TB, m *Machine, disk, id string) {
	t.Helper()
	state, err := m.ESP.State()
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := m.ESP.Decides.Chosen(m.ESP.Volume)
	if err != nil || !chosen || state.Trial != layout.RecoveryOnTrial(id) {
		t.Fatalf("the trial of %s is not what starts next: %+v, chosen: %v, %v", id, state, chosen, err)
	}
	if m.Boot.Firmware == layout.FirmwareUEFI {
		b, err := efivars.Dir(filepath.Join(disk, "efivars")).Read("LoaderEntryOneShot", efivars.Loader)
		if want := "kairos-00000000-" + id + "*.efi"; err != nil || efivars.Text(b) != want {
			t.Fatalf("systemd-boot is to start %q, want %q: %v", efivars.Text(b), want, err)
		}
	} else if b, err := m.ESP.ReadFile(layout.GrubEnv); err != nil || !strings.Contains(string(b), "\nnext=trial\n") {
		t.Fatalf("grubenv: %s, %v", b, err)
	}
	state.Trial.Left, state.Trial.Done = 0, 1
	for _, err := range []error{
		m.ESP.Decides.Next(m.ESP.Volume, state, loader.Choice{}), m.ESP.Decides.Set(m.ESP.Volume, state),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A new recovery system is started once, by the next start, before the old one goes. The active release's tries are
// what they were.
func TestRecoveryTrial(t *testing.T) {
	for _, firmware := range []string{layout.FirmwareUEFI, layout.FirmwareBIOS} {
		t.Run(firmware, func(t *testing.T) {
			a, b, c := threeImages(t)
			disk := t.TempDir()
			m := trying(t, disk, install(t, disk, firmware, t.TempDir(), a))
			use(t, m, a.id, 2)
			upgrade := func(to testImage) api.Result {
				t.Helper()
				r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: to.source(), Recovery: true})
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			// check compares recovery systems that boot, those on RECOVERY, and what status says of a trial.
			check := func(
				what string, m *Machine, recovery string, boots, stored []string, trial string,
			) *api.RecoveryTrial {
				t.Helper()
				order, err := bootable(disk, firmware)
				if err != nil || order[0].ID != a.id || order[0].Seq == layout.RecoverySeq {
					t.Errorf("%s: boots %v, %v", what, order, err)
				}
				var got []string
				for _, e := range order {
					if e.Seq == layout.RecoverySeq {
						got = append(got, e.ID)
					}
				}
				if !slices.Equal(got, boots) {
					t.Errorf("%s: recovery systems that boot: %v, want %v", what, got, boots)
				}
				found, err := m.Recovery.Releases()
				var have []string
				for _, f := range found {
					have = append(have, f.ID)
				}
				if stored = sorted(stored...); err != nil || !slices.Equal(have, stored) {
					t.Errorf("%s: RECOVERY has %v, want %v, %v", what, have, stored, err)
				}
				s, err := m.Status()
				if err != nil || s.Recovery == nil || s.Recovery.Release != recovery || s.Recovery.Problem != "" {
					t.Errorf("%s: status %+v, %v", what, s.Recovery, err)
				}
				if s.RecoveryTrial == nil && trial != "" || s.RecoveryTrial != nil && s.RecoveryTrial.State != trial {
					t.Errorf("%s: status has the trial %+v, want %q", what, s.RecoveryTrial, trial)
				}
				noLeftovers(t, disk)
				if s.RecoveryTrial == nil {
					return &api.RecoveryTrial{}
				}
				return s.RecoveryTrial
			}

			if r := upgrade(b); !r.Changed || !r.OnTrial || RestartWanted(m.Root) {
				t.Errorf("%+v", r)
			}
			both := []string{a.id, b.id}
			if got := check("upgrade", m, a.id, both, both, api.TrialPending); got.Release != b.id {
				t.Errorf("%+v", got)
			}
			if r := upgrade(b); r.Changed || !r.OnTrial {
				t.Errorf("the same command again: %+v", r)
			}
			if gone, err := m.GC(t.Context(), nil); err != nil || len(gone) != 0 {
				t.Errorf("gc: %v, %v", gone, err)
			}
			check("again", m, a.id, both, both, api.TrialPending)
			state, err := m.ESP.State()
			if e, _ := state.Active(); err != nil || e.Left != layout.BlessedTries-2 {
				t.Errorf("the active release has %+v, %v", e, err)
			}

			// Somebody chooses something else: that stays, and each healthy start makes up for the trial.
			if _, err := m.StartNext(loader.ChooseRecovery); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Bless(Verdict{}); err != nil {
				t.Fatal(err)
			}
			before, _ := m.ESP.ReadFile(layout.GrubEnv)
			if firmware == layout.FirmwareBIOS && !strings.Contains(string(before), "next=recovery\n") {
				t.Errorf("the choice is gone: %s", before)
			}
			state, err = m.ESP.State()
			if err := errors.Join(err, m.ESP.Decides.Next(m.ESP.Volume, state, loader.Choice{})); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Bless(Verdict{}); err != nil {
				t.Fatal(err)
			}

			// It comes up.
			startTrial(t, m, disk, b.id)
			runs := asRecovery(m, b.id, true)
			if got := check("it runs", runs, a.id, []string{a.id}, both, api.TrialRunning); got.Release != b.id {
				t.Errorf("%+v", got)
			}
			if wanted, err := runs.ResetWanted(true); wanted || err != nil {
				t.Errorf("it resets the machine: %v, %v", wanted, err)
			}
			if got, err := runs.Bless(Assess(t.Context(), runs.Root, runs.Boot, false)); err != nil ||
				got.Outcome != api.OutcomeBlessed {
				t.Errorf("%+v, %v", got, err)
			}
			check("it came up", m, a.id, both, both, api.TrialPassed)
			// That it is chosen once more ends no trial, and restarts nothing.
			if e, err := fakeESP(disk, firmware, nil).State(); err != nil || !e.Trial.Blessed() {
				t.Errorf("%+v, %v", e, err)
			}
			if blessesOnESP(m.Boot, os.DirFS(m.State.Dir()), mustState(t, m), Verdict{}) {
				t.Error("the blessing that follows needs no RECOVERY")
			}
			if _, err := m.Bless(Verdict{}); err != nil {
				t.Fatal(err)
			}
			check("blessed", m, b.id, []string{b.id}, []string{b.id}, "")

			// The next one does not: first without a word, then with a report.
			for _, report := range []string{"", "cannot boot: no layer"} {
				if r := upgrade(c); !r.OnTrial || !r.Changed {
					t.Errorf("%+v", r)
				}
				check("the next one", m, b.id, sorted(b.id, c.id), sorted(b.id, c.id), api.TrialPending)
				startTrial(t, m, disk, c.id)
				if report != "" {
					if err := m.report(m.Recovery.Dir(), c.id, report, "last line"); err != nil {
						t.Fatal(err)
					}
				}
				got := check("failed", m, b.id, []string{b.id}, sorted(b.id, c.id), api.TrialFailed)
				if got.Release != c.id {
					t.Errorf("%+v", got)
				}
				if _, err := m.Bless(Verdict{}); err != nil {
					t.Fatal(err)
				}
				got = check("removed", m, b.id, []string{b.id}, []string{b.id}, api.TrialFailed)
				if got.Release != c.id || got.Failure == nil ||
					!strings.Contains(got.Failure.Reason, "did not come up") && report == "" ||
					report != "" && got.Failure.Reason != report {
					t.Errorf("%+v: %+v", got, got.Failure)
				}
				_, err := m.Upgrade(
					t.Context(), UpgradeOptions{Source: c.source(), Recovery: true, UnlessFailed: true})
				var failed *FailedError
				if !errors.As(err, &failed) || failed.Release != c.id ||
					!strings.Contains(err.Error(), got.Failure.Reason) {
					t.Errorf("who repeats the command by itself gets %v", err)
				}
			}

			// A recovery system that lost a layer meanwhile does not pass, and says so.
			upgrade(c)
			startTrial(t, m, disk, c.id)
			layers, err := m.Recovery.Release(c.id)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(m.Recovery.BlobPath(layers.Layers[1].DiffID)); err != nil {
				t.Fatal(err)
			}
			runs = asRecovery(m, c.id, true)
			got, err := runs.Bless(Verdict{})
			if !errors.As(err, new(*UnhealthyError)) || got.Outcome != api.OutcomeUnhealthy {
				t.Errorf("%+v, %v", got, err)
			}
			if _, err := m.Bless(Verdict{}); err != nil {
				t.Fatal(err)
			}
			if got := check("damaged", m, b.id, []string{b.id}, []string{b.id}, api.TrialFailed); got.Failure == nil ||
				!strings.Contains(got.Failure.Reason, "missing or damaged") {
				t.Errorf("%+v", got.Failure)
			}
			// Another one is none that failed.
			r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: a.source(), Recovery: true, NoTrial: true})
			if err != nil || r.OnTrial || !r.Changed {
				t.Errorf("%+v, %v", r, err)
			}
			check("without a trial", m, a.id, []string{a.id}, []string{a.id}, "")
		})
	}
}

func mustState(t testing.TB, m *Machine) loader.State {
	t.Helper()
	state, err := m.ESP.State()
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func sorted(ids ...string) []string { return slices.Sorted(slices.Values(ids)) }

// Where a new recovery system cannot be started once, it takes the old one's place when it was read back, and the
// command says why.
func TestRecoveryWithoutTrial(t *testing.T) {
	for name, test := range map[string]struct {
		firmware string
		prepare  func(m *Machine, disk string) error
		why      string
	}{
		"an older image": {"uefi", func(m *Machine, _ string) error { m.bootFiles = fakeBootFiles; return nil },
			"of a version that does not"},
		"no room for both on the ESP": {"uefi", func(m *Machine, _ string) error {
			m.freeBytes = func(dir string) (int64, error) {
				if dir == m.ESP.Dir {
					return 1<<20 + 100, nil
				}
				return 1 << 40, nil
			}
			return nil
		}, "the ESP has"},
		"the old one is damaged": {"bios", func(m *Machine, _ string) error {
			r, err := m.Recovery.Release(m.Boot.Release)
			if err != nil {
				return err
			}
			return os.Remove(m.Recovery.BlobPath(r.Layers[1].DiffID))
		}, "missing or damaged"},
		"no variables": {"uefi", func(_ *Machine, disk string) error {
			return os.RemoveAll(filepath.Join(disk, "efivars"))
		}, "efi=runtime"},
		"variables that nobody can write": {"uefi", func(_ *Machine, disk string) error {
			name := filepath.Join(disk, "efivars", "LoaderEntryOneShot-"+efivars.Loader)
			return os.MkdirAll(filepath.Join(name, "is a directory"), 0o755)
		}, "choose it for the next start"},
		"an older grub.cfg": {"bios", func(m *Machine, _ string) error {
			name := filepath.Join(m.ESP.Dir, layout.GrubConfig)
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			return os.WriteFile(name, []byte(strings.ReplaceAll(string(b), layout.GrubTrialID, "--id x")), 0o644)
		}, "the boot loader's configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, _ := threeImages(t)
			disk := t.TempDir()
			m := trying(t, disk, install(t, disk, test.firmware, t.TempDir(), a))
			if err := test.prepare(m, disk); err != nil {
				t.Fatal(err)
			}
			var notes []string
			r, err := m.Upgrade(t.Context(), UpgradeOptions{
				Source: b.source(), Recovery: true, Progress: func(e api.Event) { notes = append(notes, e.Text) },
			})
			if err != nil || r.OnTrial || !r.Changed {
				t.Fatalf("%+v, %v", r, err)
			}
			if !strings.Contains(strings.Join(notes, "\n"), test.why) {
				t.Errorf("it does not say why: %q", notes)
			}
			order, err := bootable(disk, test.firmware)
			if last := order[len(order)-1]; err != nil || last != (layout.Entry{ID: b.id}) {
				t.Errorf("boots %v, %v", order, err)
			}
			noLeftovers(t, disk)
		})
	}
}

// On a FAT volume a trial is what it is in a directory: after each write below the file system there is a recovery
// system as a whole, the active release's entry is as it was, and fsck.fat finds nothing.
func TestRecoveryTrialOnFAT(t *testing.T) {
	a, b, c := threeImages(t)
	for _, firmware := range []string{"uefi", "bios"} {
		t.Run(firmware, func(t *testing.T) {
			disk := t.TempDir()
			m := install(t, disk, firmware, t.TempDir(), a)
			release, err := m.State.Release(a.id)
			if err != nil {
				t.Fatal(err)
			}
			v := onFAT(t, m, disk, release)
			trying(t, disk, m)
			if _, err := m.Bless(Verdict{}); err != nil {
				t.Fatal(err)
			}
			v.Wrote = func(d *fat.Volume) { recoveryIsWhole(t, d, a.id) }
			upgrade := func(to testImage) {
				t.Helper()
				r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: to.source(), Recovery: true})
				if err != nil || !r.OnTrial {
					t.Fatalf("%+v, %v", r, err)
				}
				v.Check()
			}
			bless := func(m *Machine) {
				t.Helper()
				if _, err := m.Bless(Verdict{}); err != nil {
					t.Fatal(err)
				}
				v.Check()
			}
			upgrade(b)
			startTrial(t, m, disk, b.id)
			bless(asRecovery(m, b.id, true))
			bless(m)
			if s := mustState(t, m); s.Recovery != b.id || s.Trial.ID != "" {
				t.Errorf("came up: %+v", s)
			}
			upgrade(c)
			startTrial(t, m, disk, c.id)
			bless(m)
			if s := mustState(t, m); s.Recovery != b.id || s.Trial.ID != "" {
				t.Errorf("failed: %+v", s)
			}
		})
	}
}

// recoveryIsWhole checks that a FAT volume has a recovery system that boots, and the active release with all its
// tries.
func recoveryIsWhole(t *testing.T, v *fat.Volume, active string) {
	t.Helper()
	names, err := fs.ReadDir(v.FS(), layout.UKIDir)
	if err != nil {
		t.Error(err)
	}
	whole, armed := 0, false
	for _, n := range names {
		e, err := layout.ParseEntry(n.Name())
		if err != nil {
			continue
		}
		armed = armed || e == layout.Blessed(1, active)
		if e.Seq != layout.RecoverySeq || e.Bad() {
			continue
		}
		b, err := fs.ReadFile(v.FS(), layout.UKIDir+"/"+n.Name())
		if err != nil || string(b) != "UKI of "+e.ID {
			t.Errorf("%s has %q, %v", n.Name(), b, err)
			continue
		}
		if !e.Counted || e.Blessed() {
			whole++
		}
	}
	if whole == 0 || !armed {
		t.Errorf("%d recovery systems, the active release is armed: %v: %v", whole, armed, names)
	}
}

// trialOperations are those of [TestPowerCutAtEachStep] that a recovery system's trial is made of.
func trialOperations(t *testing.T, a, b, c testImage) []operation {
	try := func(m *Machine, to testImage) error {
		trying(t, filepath.Dir(m.ESP.Dir), m)
		_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: to.source(), Recovery: true})
		return err
	}
	started := func(m *Machine) (string, error) {
		err := try(m, c)
		startTrial(t, m, filepath.Dir(m.ESP.Dir), c.id)
		return a.id, err
	}
	is := func(m *Machine, recovery, trial string) error {
		s, err := m.ESP.State()
		if err == nil && (s.Recovery != recovery || s.Trial.ID != trial) {
			err = fmt.Errorf("recovery %s, on trial %q", s.Recovery, s.Trial.ID)
		}
		if err != nil || m.FS == nil && len(onRecovery(t, m)) > len(recoveryKeeps(s)) {
			err = errors.Join(err, fmt.Errorf("RECOVERY has %v", onRecovery(t, m)))
		}
		return err
	}
	blessed := func(recovery string) func(context.Context, *Machine) error {
		return func(ctx context.Context, m *Machine) error {
			trying(t, filepath.Dir(m.ESP.Dir), m)
			if _, err := m.Bless(Verdict{}); err != nil {
				return err
			}
			// A blessing that has no trial to end any more does not mount RECOVERY: gc does.
			if _, err := m.GC(ctx, nil); err != nil {
				return err
			}
			return is(m, recovery, "")
		}
	}
	proven := func(m *Machine) (string, error) {
		id, err := started(m)
		if err == nil {
			_, err = asRecovery(m, c.id, true).Bless(Verdict{})
		}
		return id, err
	}
	return []operation{
		{"upgrade of recovery, tried", func(*Machine) (string, error) { return a.id, nil },
			func(_ context.Context, m *Machine) error {
				if err := try(m, c); err != nil {
					return err
				}
				return is(m, a.id, c.id)
			}, []string{a.id}, nil},
		{"upgrade of recovery while another one is on trial",
			func(m *Machine) (string, error) { return a.id, try(m, b) },
			func(_ context.Context, m *Machine) error {
				if err := try(m, c); err != nil {
					return err
				}
				return is(m, a.id, c.id)
			}, []string{a.id}, nil},
		{"a recovery system on trial comes up", started, func(_ context.Context, m *Machine) error {
			_, err := asRecovery(m, c.id, true).Bless(Verdict{})
			return err
		}, []string{a.id}, nil},
		{"a recovery system on trial fails to come up", started, func(_ context.Context, m *Machine) error {
			return m.report(m.Recovery.Dir(), c.id, "no layer", "log")
		}, []string{a.id}, nil},
		{"bless after a recovery system came up", proven, blessed(c.id), []string{a.id}, nil},
		{"bless after a recovery system did not", started, blessed(a.id), []string{a.id}, nil},
		{"bless before the trial", func(m *Machine) (string, error) {
			err := try(m, c)
			use(t, m, a.id, 1)
			s := mustState(t, m)
			return a.id, errors.Join(err, m.ESP.Decides.Next(m.ESP.Volume, s, loader.Choice{}))
		}, func(_ context.Context, m *Machine) error {
			trying(t, filepath.Dir(m.ESP.Dir), m)
			if _, err := m.Bless(Verdict{}); err != nil {
				return err
			}
			return is(m, a.id, c.id)
		}, []string{a.id}, nil},
	}
}

// onRecovery are the releases on RECOVERY.
func onRecovery(t testing.TB, m *Machine) (ids []string) {
	t.Helper()
	found, err := m.Recovery.Releases()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		ids = append(ids, f.ID)
	}
	return ids
}
