package node

import (
	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/loader"
)

// Choices are what can be started on this node, from its status.
func Choices(s api.Status) []api.BootChoice {
	var all []api.BootChoice
	for _, c := range []struct {
		choice string
		slot   *api.Slot
	}{
		{loader.ChooseActive, s.Active}, {loader.ChoosePassive, s.Passive},
		{loader.ChooseRecovery, s.Recovery}, {loader.ChooseReset, s.Recovery},
	} {
		if c.slot != nil {
			all = append(all, api.BootChoice{Choice: c.choice, Release: c.slot.Release, Version: c.slot.Version})
		}
	}
	for _, f := range s.Failed {
		all = append(all, api.BootChoice{Choice: f.Release, Release: f.Release, Version: f.Version})
	}
	return all
}

// StartNext has a role, a reset or a release start at the next start, and not at the one after it. It returns what was
// chosen.
func (m *Machine) StartNext(what string) (r api.BootChoice, err error) {
	if m.ESP == nil {
		return r, ErrNotInstalled
	}
	state, err := m.ESP.State()
	if err != nil {
		return r, err
	}
	choice, err := state.Choose(what)
	if err != nil {
		return r, &RefusedError{err.Error()}
	}
	if err := m.ESP.Next(choice); err != nil {
		return r, err
	}
	r = api.BootChoice{Choice: what, Release: choice.Entry.ID}
	if active, ok := state.Active(); ok && !choice.Chosen() {
		r.Release = active.ID
	}
	return r, nil
}
