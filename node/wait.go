package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
)

// FailedError says that a release has failed on this node: it used up its tries, and is still known for that.
type FailedError struct {
	Release string // id
	refused *RefusedError
}

func (e *FailedError) Error() string { return e.refused.Error() }

// Unwrap says that the command was refused.
func (e *FailedError) Unwrap() error { return e.refused }

// RefuseFailed returns a *[FailedError] where a release has failed on this node.
func (m *Machine) RefuseFailed(id string) error {
	if err := m.installed(); err != nil {
		return err
	}
	slots, err := m.ESP.State()
	if err != nil {
		return err
	}
	return m.refuseFailed(slots, api.Result{Release: id})
}

func (m *Machine) refuseFailed(slots loader.State, r api.Result) error {
	for _, e := range slots.Failed() {
		if e.ID != r.Release {
			continue
		}
		reason := usedUp
		if f := m.slot(os.DirFS(m.State.Dir()), layout.RoleSystem, e, m.asks()).Failure; f != nil && f.Reason != "" {
			reason = f.Reason
		}
		return hasFailed(r, reason)
	}
	return nil
}

// refuseFailedRecovery refuses a release that has failed as a recovery system, and is still known for that.
func (m *Machine) refuseFailedRecovery(r api.Result) error {
	if t := failedTrial(os.DirFS(m.State.Dir())); t != nil && t.Release == r.Release {
		return hasFailed(r, trialFailure(t).Reason)
	}
	return nil
}

func hasFailed(r api.Result, reason string) error {
	name := r.Release
	if r.Version != "" {
		name += " (" + r.Version + ")"
	}
	return &FailedError{r.Release, &RefusedError{fmt.Sprintf("release %s has failed on this node: %s. "+
		"The same command without --unless-failed and --wait tries it again", name, reason)}}
}

const usedUp = "it used up its tries"

// Wait waits until it is decided what becomes of a release: it is blessed and runs, or it has failed and another one
// runs. The boot entries say so, so that it does not matter how often the machine restarts meanwhile and who asks. ""
// is the release that was activated last. look is [Look], or a test's.
func Wait(
	ctx context.Context,
	release string,
	look func() (api.Status, error),
	every time.Duration,
) (api.Result, error) {
	return wait(ctx, look, every, func(s api.Status) (api.Result, bool, error) { return settled(s, release) })
}

// WaitRecovery waits likewise until a release is the recovery system, or has failed as one and the old one stays.
func WaitRecovery(
	ctx context.Context,
	release string,
	look func() (api.Status, error),
	every time.Duration,
) (api.Result, error) {
	return wait(ctx, look, every, func(s api.Status) (api.Result, bool, error) { return settledRecovery(s, release) })
}

func wait(
	ctx context.Context,
	look func() (api.Status, error),
	every time.Duration,
	settled func(api.Status) (r api.Result, done bool, err error),
) (api.Result, error) {
	for {
		s, err := look()
		if err != nil && !errors.Is(err, ErrNotKnown) {
			return api.Result{}, err
		}
		if s.Mode == api.ModeLive || s.Mode == api.ModeNone {
			return api.Result{}, ErrNotInstalled
		}
		r, done, err := settled(s)
		if done || err != nil {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, fmt.Errorf("release %s is neither blessed nor given up yet: %w", r.Release, context.Cause(ctx))
		case <-time.After(every):
		}
	}
}

// settled says what has become of a release, and whether that is decided.
func settled(s api.Status, release string) (r api.Result, done bool, err error) {
	if release == "" {
		switch {
		case len(s.Failed) > 0: // it is known until the next one is activated
			release = s.Failed[0].Release
		case s.Active != nil:
			release = s.Active.Release
		default:
			return r, false, refuse("there is no release to wait for: see `kairos-apply status`")
		}
	}
	r.Release = release
	for _, x := range s.Failed {
		if x.Release == release {
			r.Version, r.Outcome, r.Failure = x.Version, api.OutcomeFellBack, x.Failure
			if r.Failure == nil {
				r.Failure = &api.Failure{Reason: usedUp}
			}
			return r, true, nil
		}
	}
	if b := s.Booted; b != nil && b.Release == release && s.Mode == api.ModeInstalled {
		r.Version = b.Version
		if b.Blessed {
			r.Outcome = api.OutcomeBlessed
		}
		return r, b.Blessed, nil
	}
	if s.Active != nil && s.Active.Release == release {
		r.Version = s.Active.Version
		return r, false, nil // until the machine restarts
	}
	return r, false, refuse("release %s does not boot next on this node: see `kairos-apply status`", release)
}

// settledRecovery says the same of a release that is to be the recovery system.
func settledRecovery(s api.Status, release string) (r api.Result, done bool, err error) {
	r.Release, r.Recovery = release, true
	if t := s.RecoveryTrial; t != nil && t.Release == release {
		r.Version = t.Version
		if t.State != api.TrialFailed {
			return r, false, nil // until it has the old one's place
		}
		r.Outcome, r.Failure = api.OutcomeFellBack, trialFailure(t)
		return r, true, nil
	}
	if s.Recovery != nil && s.Recovery.Release == release {
		r.Version, r.Outcome = s.Recovery.Version, api.OutcomeBlessed
		return r, true, nil
	}
	return r, false, refuse("release %s is not this node's recovery system, and none that is tried: "+
		"see `kairos-apply status`", release)
}

func trialFailure(t *api.RecoveryTrial) *api.Failure {
	if t.Failure == nil {
		return &api.Failure{Reason: neverUp}
	}
	return t.Failure
}
