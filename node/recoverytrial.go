package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
)

// A new recovery system is tried before the old one goes: nothing else would show that it comes up before it is
// needed.
//
//	upgrade --recovery   puts it beside the old one, with one try, and has the next start be its
//	bless, in it         notes on the ESP that it has come up, and the machine restarts
//	bless, after that    gives it the old one's place; or removes it, where nothing was noted
//
// The active release is not counted meanwhile, and the old recovery system is the one that is fallen back to.

// activateRecovery makes a staged release the recovery system on trial, or where that cannot be the recovery system at
// once. It says which one.
func (m *Machine) activateRecovery(slots loader.State, s *stagedRelease, o UpgradeOptions) (onTrial bool, err error) {
	id := s.release.ID()
	why, err := m.noTrial(slots, s, o)
	if err != nil {
		return false, err
	}
	if why == nil {
		err := m.ESP.TryRecovery(id, s.files)
		if !errors.As(err, new(*loader.OnceError)) {
			return true, err
		}
		why = err
		if err := m.ESP.DropTrial(); err != nil {
			return false, err
		}
	}
	if !o.NoTrial {
		o.Progress.note(fmt.Sprintf("the new recovery system was read back from the disk, but is not started once "+
			"before it takes the old one's place: %v", why))
	}
	return false, m.ESP.ActivateRecovery(id, s.files)
}

// noTrial says why a new recovery system is not started before the old one goes, nil where it is.
func (m *Machine) noTrial(slots loader.State, s *stagedRelease, o UpgradeOptions) (why, err error) {
	switch {
	case o.NoTrial:
		return errors.New("no trial is wanted"), nil
	case slots.Recovery == "" || slots.Recovery == s.release.ID() || !m.complete(m.Recovery, slots.Recovery):
		return errors.New("the old one is missing or damaged"), nil
	case !s.recoveryTrial:
		return errors.New("its image is of a version that does not end such a start by itself"), nil
	}
	if err := m.ESP.CanTry(); err != nil {
		return err, nil
	}
	// The next upgrade, which may come before the next start, has to have room, too.
	need := 2*s.files.Size() + 1<<20
	have, err := m.freeBytes(m.ESP.Dir)
	if err == nil && have < need {
		why = fmt.Errorf("the ESP has %s free, and takes %s to keep both", mib(have), mib(need))
	}
	return why, err
}

// tryAgain makes good what an interrupted upgrade of recovery has left, and has the next start be that of the recovery
// system on trial.
func (m *Machine) tryAgain(ctx context.Context, r api.Result, progress Progress) (api.Result, error) {
	release, err := m.Recovery.Release(r.Release)
	if err != nil {
		return r, err
	}
	files, facts, err := m.bootFiles(m.Recovery, withCmdline(release, m.config().Install()), progress)
	if err != nil {
		return r, err
	}
	if err := m.restorable(release, facts.anchor, facts.uki, progress); err != nil {
		return r, err
	}
	if err := m.roomOnESP(ctx, &stagedRelease{release: release, files: files}, progress); err != nil {
		return r, err
	}
	if err := m.ESP.TryRecovery(r.Release, files); err != nil {
		return r, m.explain(err)
	}
	r.OnTrial = true
	return m.finishRecovery(ctx, r)
}

// recoveryKeeps are the releases on RECOVERY that a role needs.
func recoveryKeeps(slots loader.State) []string {
	keep := []string{slots.Recovery}
	if slots.Trial.ID != "" {
		keep = append(keep, slots.Trial.ID)
	}
	return keep
}

// proveRecovery notes that the recovery system which runs on trial has come up: with its node agent, from layers that
// dm-verity has checked as far as they were read, and with its store and the boot entries at hand. The machine is to
// restart whatever comes out.
func (m *Machine) proveRecovery(a api.Assessment) (api.Assessment, error) {
	fail := func(err error) (api.Assessment, error) {
		a.Outcome = api.OutcomeUnhealthy
		unhealthy := &UnhealthyError{Reason: err.Error()}
		if m.Recovery != nil {
			err = m.report(m.Recovery.Dir(), a.Release, unhealthy.Reason, "")
		}
		return a, errors.Join(unhealthy, err, mark(m.Root, layout.RunUnhealthy))
	}
	switch {
	case m.ESP == nil || m.Recovery == nil:
		return fail(errors.New("the partitions efi and recovery cannot be mounted"))
	case !m.complete(m.Recovery, a.Release):
		return fail(errors.New("its release.json or a layer is missing or damaged"))
	}
	if err := m.ESP.BlessRecovery(a.Release); err != nil {
		return fail(err)
	}
	a.Outcome = api.OutcomeBlessed
	return a, mark(m.Root, layout.RunUnhealthy) // the guard ends a restart that hangs
}

// settleRecovery does what follows on the trial of a recovery system. It is the active or the passive release that
// does it. At a power cut the next one does it again, or the same command.
func (m *Machine) settleRecovery(ctx context.Context) error {
	slots, err := m.ESP.State()
	if err != nil || slots.Trial.ID == "" {
		return err
	}
	t := slots.Trial
	if !t.Bad() && !t.Blessed() {
		return m.ESP.RetryRecovery()
	}
	if m.Recovery == nil {
		return fmt.Errorf("the recovery system %s was tried, but the recovery partition cannot be mounted: "+
			"`kairos-apply reset` formats it", t.ID)
	}
	if t.Blessed() && m.complete(m.Recovery, t.ID) {
		if err := m.ESP.PromoteRecovery(); err != nil {
			return err
		}
		// Where that fails the recovery system does it when it runs.
		if r, err := m.Recovery.Release(t.ID); err == nil {
			_ = m.raiseFloor(r, layout.RoleRecovery)
		}
		_, err := m.Recovery.GC(ctx, []string{t.ID})
		return err
	}
	if err := m.rememberTrial(t); err != nil {
		return err
	}
	return m.dropTrial(ctx)
}

// dropTrial removes the recovery system on trial.
func (m *Machine) dropTrial(ctx context.Context) error {
	slots, err := m.ESP.State()
	if err != nil {
		return err
	}
	if err := m.ESP.DropTrial(); err != nil {
		return err
	}
	if slots.Recovery != "" && m.complete(m.Recovery, slots.Recovery) {
		if _, err := m.Recovery.GC(ctx, []string{slots.Recovery}); err != nil {
			return err
		}
	}
	return m.FS.Remove(filepath.Join(m.Recovery.Dir(), layout.FailurePath(slots.Trial.ID)))
}

const neverUp = "it was started once and did not come up: it stopped before it could say why"

// rememberTrial keeps on STATE why a recovery system on trial has failed: it goes from RECOVERY.
func (m *Machine) rememberTrial(t layout.Entry) error {
	slot := m.slot(os.DirFS(m.Recovery.Dir()), layout.RoleRecovery, t, m.asks())
	failed := api.RecoveryTrial{State: api.TrialFailed, Slot: *slot}
	switch {
	case failed.Failure != nil:
	case failed.Problem != "":
		failed.Failure = &api.Failure{Reason: failed.Problem}
	default:
		failed.Failure = &api.Failure{Reason: neverUp}
		if log := m.pstore(); log != "" {
			failed.Failure = &api.Failure{Reason: panicReason(log), Log: printable(log)}
		}
	}
	b, err := json.Marshal(failed)
	if err != nil {
		return err
	}
	name := filepath.Join(m.State.Dir(), layout.RecoveryTrialPath)
	if err := m.FS.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return m.FS.WriteFile(name, b, 0o644)
}

// forgetTrial removes what rememberTrial has kept: another recovery system came after that.
func (m *Machine) forgetTrial() error {
	name := filepath.Join(m.State.Dir(), layout.RecoveryTrialPath)
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return m.FS.Remove(name)
}

// failedTrial reads what rememberTrial has kept, nil where there is nothing.
func failedTrial(state fs.FS) *api.RecoveryTrial {
	b, err := fs.ReadFile(state, layout.RecoveryTrialPath)
	if err != nil {
		return nil
	}
	var t api.RecoveryTrial
	if json.Unmarshal(b, &t) != nil {
		return nil // as good as none
	}
	return &t
}
