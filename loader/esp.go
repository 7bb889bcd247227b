package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

// Loader is what a boot loader keeps on the ESP.
type Loader interface {
	// Entries reads the entries, recovery among them, in any order.
	Entries(Files) ([]layout.Entry, error)
	// Set makes it agree with a state. What was chosen for the next start stays chosen.
	Set(*Volume, State) error
	// Next has it start something else than the state says, once. The zero Choice takes that back.
	Next(*Volume, State, Choice) error
	// Chosen says whether something is chosen for the next start.
	Chosen(Files) (bool, error)
	// CanTry says why a recovery system on trial cannot be started once.
	CanTry(Files) error
}

// Files are an ESP's, as they are read.
type Files interface {
	// ReadDir returns the names in a directory; one that does not exist has none.
	ReadDir(dir string) ([]string, error)
	ReadFile(name string) ([]byte, error)
}

// ESP is what boots on a node.
type ESP struct {
	*Volume
	// Decides is the loader that the firmware starts. Copy is the other one; the names of the UKIs are one of the two.
	Decides, Copy Loader
}

// State reads what boots. Where the loader that decides has nothing readable, what the other one says is what it will
// be given.
func (p *ESP) State() (State, error) { return Read(p.Volume, p.Decides, p.Copy) }

// Read is [ESP.State] of an ESP that need not be mounted.
func Read(files Files, decides, other Loader) (State, error) {
	entries, err := decides.Entries(files)
	if err != nil {
		copied, err2 := other.Entries(files)
		if err2 != nil {
			return State{}, errors.Join(err, err2)
		}
		entries = copied
	}
	return NewState(entries), nil
}

// nextSeq returns a sequence number above all that were ever seen here.
func (p *ESP) nextSeq() (uint32, error) {
	var top uint32
	for _, l := range []Loader{p.Decides, p.Copy} {
		entries, err := l.Entries(p.Volume)
		if err != nil {
			continue // grubenv; a folder that cannot be read fails below
		}
		for _, e := range entries {
			top = max(top, e.Seq)
		}
	}
	if top == layout.MaxSeq {
		return 0, fmt.Errorf("boot entries: sequence number %d is the last one", top)
	}
	return top + 1, nil
}

// Activate makes a release the one that boots next, on trial. It is the commit of an upgrade, a rollback and an
// installation.
func (p *ESP) Activate(id string, files BootFiles) error {
	fail := func(err error) error { return fmt.Errorf("activate release %s: %w", id, err) }
	seq, err := p.nextSeq()
	if err != nil {
		return fail(err)
	}
	state, err := p.State() // as it is before
	if err != nil {
		return fail(err)
	}
	// First: what a power cut tore may have clusters that FAT takes for free, and new files would be given them.
	if err := p.removeLeftovers(state); err != nil {
		return fail(err)
	}
	e := layout.OnTrial(seq, id)
	after := NewState(append(state.All(), e))
	if err := p.put(e, files, after); err != nil {
		return fail(err)
	}
	if err := p.set(after); err != nil {
		return fail(err)
	}
	return nil
}

// ActivateRecovery makes a release the recovery system.
func (p *ESP) ActivateRecovery(id string, files BootFiles) error {
	fail := func(err error) error { return fmt.Errorf("recovery release %s: %w", id, err) }
	state, err := p.State()
	if err != nil {
		return fail(err)
	}
	if err := p.removeLeftovers(state); err != nil { // first, as in Activate
		return fail(err)
	}
	if err := p.put(layout.Entry{Seq: layout.RecoverySeq, ID: id}, files, state); err != nil {
		return fail(err)
	}
	old := state.Recovery
	state.Recovery, state.Trial = id, layout.Entry{}
	if err := p.set(state); err != nil {
		return fail(err)
	}
	if old != "" && old != id {
		if err := p.Remove(entryPath(layout.Entry{Seq: layout.RecoverySeq, ID: old})); err != nil {
			return fail(err)
		}
	}
	if err := p.removeUnneeded(state); err != nil {
		return fail(err)
	}
	return p.Names.Reclaim()
}

// removeUnneeded removes the UKIs whose entries a state does not have.
func (p *ESP) removeUnneeded(s State) error {
	names, err := unneeded(p.Volume, s)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := p.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// put brings a release's boot files to the ESP; the UKI gets its name last. Files of these names with other content,
// such as those of a damaged recovery system, are replaced.
func (p *ESP) put(e layout.Entry, files BootFiles, s State) error {
	if len(files.UKI) == 0 {
		return errors.New("no UKI")
	}
	for _, f := range files.grubFiles(e.ID) {
		if _, err := p.Put(f.Path, f.Data); err != nil {
			return err
		}
	}
	return p.putEntry(entryPath(e), files.titled(s.Describe(e)))
}

// Restore writes the boot files of an entry again, where they differ.
func (p *ESP) Restore(e layout.Entry, files BootFiles) error {
	state, err := p.State()
	if err != nil {
		return err
	}
	if err := p.put(e, files, state); err != nil {
		return fmt.Errorf("boot files of release %s: %w", e.ID, err)
	}
	return p.Names.Reclaim()
}

// Bless gives a release that is healthy all its tries, as a blessed one. It writes only where some were used, or where
// the release was on trial.
func (p *ESP) Bless(id string) error {
	state, err := p.State()
	if err != nil {
		return fmt.Errorf("bless release %s: %w", id, err)
	}
	if !state.Has(id) && state.Recovery != id {
		return fmt.Errorf("bless release %s: it has no boot entry", id)
	}
	state, _ = state.Bless(id)
	if err := p.set(state); err != nil {
		return fmt.Errorf("bless release %s: %w", id, err)
	}
	return nil
}

// Mirror makes the loader that does not decide agree with the one that does.
func (p *ESP) Mirror() error {
	state, err := p.State()
	if err != nil {
		return err
	}
	return p.set(state)
}

// set writes a state: first where it decides.
func (p *ESP) set(s State) error {
	if err := p.Decides.Set(p.Volume, s); err != nil {
		return err
	}
	return p.Copy.Set(p.Volume, s)
}

// Retire removes all entries but the newest one of each release in keep, and recovery.
// It returns the ids of releases that have no entry any more.
func (p *ESP) Retire(keep []string) (gone []string, err error) {
	state, err := p.State()
	if err != nil {
		return nil, err
	}
	stay, gone := state.Keep(keep)
	// First what decides, so that nothing is removed that the loader might choose. Then all counters agree.
	if err := p.set(stay); err != nil {
		return nil, err
	}
	if err := p.removeUnneeded(stay); err != nil {
		return nil, err
	}
	return gone, p.removeLeftovers(stay)
}

// Clean says whether [ESP.Retire] would find nothing to remove, on an ESP that need not be mounted.
func Clean(files Files, s State, keep []string) (bool, error) {
	stay, _ := s.Keep(keep)
	names, err := unneeded(files, stay)
	if err != nil {
		return false, err
	}
	left, err := leftovers(files, stay)
	return len(names)+len(left) == 0 && len(stay.Entries) == len(s.Entries), err
}

// unneeded returns the UKIs whose entries a state does not have.
func unneeded(files Files, s State) ([]string, error) {
	names, err := files.ReadDir(layout.UKIDir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range names {
		e, err := layout.ParseEntry(name)
		if err == nil && !inState(s, e) {
			found = append(found, entryPath(e))
		}
	}
	return found, nil
}

// removeLeftovers removes what runs that were interrupted have left, named or not, and the BIOS files of
// releases that have no entry.
func (p *ESP) removeLeftovers(s State) error {
	names, err := leftovers(p.Volume, s)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := p.Remove(name); err != nil {
			return err
		}
	}
	return p.Names.Reclaim()
}

// leftovers are what has a name of what removeLeftovers removes.
func leftovers(files Files, s State) ([]string, error) {
	var found []string
	names, err := files.ReadDir(layout.UKIDir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if isLeftover(name) {
			found = append(found, layout.UKIDir+"/"+name)
		}
	}
	ids, err := files.ReadDir(layout.GrubKernelDir)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if layout.ValidID(id) && !slices.Contains(s.IDs(), id) {
			found = append(found, layout.GrubKernelDir+"/"+id)
		}
	}
	return found, nil
}

// isLeftover says whether a name in EFI/Linux is what a run that was interrupted has left: a UKI that no loader was to
// look at, or, where somebody has put files of his own beside the entries, one with half of its name, which
// shows it by its short one.
func isLeftover(name string) bool {
	name = strings.ToLower(name)
	return strings.HasSuffix(name, staged) || strings.HasPrefix(name, "kairos~")
}

// BootFiles reads the boot files of a release that has an entry.
func (p *ESP) BootFiles(id string) (BootFiles, error) {
	names, err := p.ReadDir(layout.UKIDir)
	if err != nil {
		return BootFiles{}, err
	}
	for _, name := range names {
		e, err := layout.ParseEntry(name)
		if err != nil || e.ID != id {
			continue
		}
		uki, err := p.ReadFile(entryPath(e))
		if err != nil {
			return BootFiles{}, fmt.Errorf("boot files of release %s: %w", id, err)
		}
		return BootFiles{UKI: uki}, nil
	}
	return BootFiles{}, fmt.Errorf("boot files of release %s: %w", id, fs.ErrNotExist)
}
