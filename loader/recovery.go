package loader

import (
	"fmt"

	"github.com/kairos-buildkit/kairos/layout"
)

// CanTry says why this machine cannot start a new recovery system once, beside the old one.
func (p *ESP) CanTry() error { return p.Decides.CanTry(p.Volume) }

// OnceError says that what is to start once could not be chosen.
type OnceError struct{ Err error }

func (e *OnceError) Error() string { return "choose it for the next start: " + e.Err.Error() }
func (e *OnceError) Unwrap() error { return e.Err }

// TryRecovery has the next start be that of a new recovery system, once, to prove that it comes up. The old one stays.
// The error is a [*OnceError] where all but the last step is done.
func (p *ESP) TryRecovery(id string, files BootFiles) error {
	fail := func(err error) error { return fmt.Errorf("try recovery release %s: %w", id, err) }
	state, err := p.State()
	if err != nil {
		return fail(err)
	}
	if state.Trial.ID != "" && state.Trial.ID != id {
		if err := p.DropTrial(); err != nil {
			return fail(err)
		}
		state.Trial = layout.Entry{}
	}
	if err := p.removeLeftovers(state); err != nil { // first, as in Activate
		return fail(err)
	}
	trial := layout.RecoveryOnTrial(id)
	have := trial // its UKI may be there already, with another counter
	if state.Trial.ID == id {
		have = state.Trial
	}
	state.Trial = trial
	if err := p.put(have, files, state); err != nil {
		return fail(err)
	}
	if err := p.set(state); err != nil {
		return fail(err)
	}
	// Last: without it the active release starts, and whoever blesses it makes up for this.
	if err := p.Decides.Next(p.Volume, state, Choice{Entry: trial}); err != nil {
		return fail(&OnceError{err})
	}
	return p.Names.Reclaim()
}

// RetryRecovery has the next start be that of the recovery system on trial, unless something else is chosen for it.
func (p *ESP) RetryRecovery() error {
	state, err := p.State()
	if err != nil || state.Trial.ID == "" || state.Trial.Bad() {
		return err
	}
	chosen, err := p.Decides.Chosen(p.Volume)
	if err == nil && !chosen {
		err = p.Decides.Next(p.Volume, state, Choice{Entry: state.Trial})
	}
	if err != nil {
		return fmt.Errorf("try recovery release %s: %w", state.Trial.ID, err)
	}
	return nil
}

// BlessRecovery notes that the recovery system on trial has come up.
func (p *ESP) BlessRecovery(id string) error {
	state, err := p.State()
	if err == nil && state.Trial.ID != id {
		err = fmt.Errorf("it is not on trial")
	}
	if err == nil {
		state.Trial = layout.Blessed(layout.RecoverySeq, id)
		err = p.set(state)
	}
	if err != nil {
		return fmt.Errorf("recovery release %s has come up: %w", id, err)
	}
	return nil
}

// PromoteRecovery has the recovery system that has come up take the old one's place.
func (p *ESP) PromoteRecovery() error {
	state, err := p.State()
	if err != nil {
		return err
	}
	if state.Trial.ID != "" && state.Trial.Blessed() {
		state.Recovery, state.Trial = state.Trial.ID, layout.Entry{}
	}
	return p.keepRecovery(state)
}

// DropTrial removes the recovery system that is on trial.
func (p *ESP) DropTrial() error {
	state, err := p.State()
	if err != nil {
		return err
	}
	state.Trial = layout.Entry{}
	return p.keepRecovery(state)
}

// keepRecovery makes the recovery systems those of a state.
func (p *ESP) keepRecovery(s State) error {
	err := p.set(s)
	if err == nil {
		err = p.removeUnneeded(s)
	}
	if err == nil {
		err = p.removeLeftovers(s)
	}
	if err != nil {
		return fmt.Errorf("recovery release %s: %w", s.Recovery, err)
	}
	return nil
}
