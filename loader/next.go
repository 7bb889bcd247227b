package loader

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

// Choice is what starts next, once. The zero value is what the state says.
type Choice struct {
	Entry layout.Entry // the release's, or the recovery system's
	// Reset: the recovery system erases what the machine keeps, and installs its release, without asking.
	Reset bool
}

// Chosen says whether it is something else than what the state says.
func (c Choice) Chosen() bool { return c.Entry.ID != "" }

// What a person may choose, besides a release's id.
const (
	ChooseActive   = "active"
	ChoosePassive  = "passive"
	ChooseRecovery = "recovery"
	ChooseReset    = "reset"
)

// Choose finds what a word stands for: a role, or the id of a release that has an entry. One that has used up its
// tries may be chosen, too.
func (s State) Choose(what string) (Choice, error) {
	recovery := Choice{Entry: layout.Entry{Seq: layout.RecoverySeq, ID: s.Recovery}}
	active, _ := s.Active()
	switch what {
	case ChooseActive:
		return Choice{}, nil
	case ChoosePassive:
		e, ok := s.Passive()
		if !ok {
			return Choice{}, errors.New("there is no passive release: this node has one only")
		}
		return Choice{Entry: e}, nil
	case ChooseRecovery, ChooseReset:
		if s.Recovery == "" {
			return Choice{}, errors.New(
				"there is no recovery system: make one with `kairos-apply upgrade IMAGE --recovery`")
		}
		recovery.Reset = what == ChooseReset
		return recovery, nil
	case active.ID:
		return Choice{}, nil
	}
	i := slices.IndexFunc(s.Entries, func(e layout.Entry) bool { return e.ID == what })
	switch {
	case i >= 0:
		return Choice{Entry: s.Entries[i]}, nil
	case what != "" && what == s.Recovery:
		return recovery, nil
	case what != "" && what == s.Trial.ID:
		return Choice{Entry: s.Trial}, nil
	}
	return Choice{}, fmt.Errorf("%q does not start here: choose %s, %s, %s, %s or a release: %s",
		what, ChooseActive, ChoosePassive, ChooseRecovery, ChooseReset, strings.Join(s.IDs(), " "))
}

// Next has the loader that decides start something, once.
func (p *ESP) Next(c Choice) error {
	state, err := p.State()
	if err != nil {
		return err
	}
	if err := p.Decides.Next(p.Volume, state, c); err != nil {
		return fmt.Errorf("what starts next: %w", err)
	}
	return nil
}
