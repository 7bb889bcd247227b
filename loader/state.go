// Package loader is what the boot loaders of a node do: which release boots next, which one after that, and how often
// each is tried. It holds that as a value, [State], and changes it on an EFI system partition so that a power cut
// leaves the old state or the new one.
//
// Both loaders count by themselves, and have the same meaning: systemd-boot (package sdboot) by the names of the UKIs,
// GRUB (package grub) by its environment block. The loader that the firmware starts decides; what the other one has is
// a copy, which each command makes agree.
//
//	on trial   3 tries: the release has to prove healthy
//	blessed    9 tries, armed again at each healthy boot
//	recovery   not counted: it is what remains
//
// A new recovery system is beside the old one first, with one try, and started by a choice for one start alone.
//
// A release without tries left comes after all others, so that active, passive and recovery follow each other without
// any code of ours having to run.
package loader

import (
	"cmp"
	"slices"

	"github.com/kairos-buildkit/kairos/layout"
)

// State says what the loader does at the next start.
type State struct {
	// Entries are the releases on STATE in the order in which the loader tries them: the
	// highest sequence number first, and those that used up their tries after all others.
	Entries []layout.Entry
	// Recovery is the id of the recovery system, or "".
	Recovery string
	// Trial is a new recovery system that has to prove that it comes up before it takes the old one's place: blessed
	// when it has. Its ID is "" where there is none. A power cut may leave it without an old one: then it has come up.
	Trial layout.Entry
}

// NewState orders entries as the loader does.
func NewState(entries []layout.Entry) State {
	var s State
	for _, e := range entries {
		switch {
		case e.Seq != layout.RecoverySeq:
			s.Entries = append(s.Entries, e)
		case e.Counted:
			s.Trial = e
		default:
			s.Recovery = e.ID
		}
	}
	slices.SortFunc(s.Entries, func(a, b layout.Entry) int {
		if a.Bad() != b.Bad() {
			if a.Bad() {
				return 1
			}
			return -1
		}
		return cmp.Compare(b.Seq, a.Seq)
	})
	return s
}

// All returns the entries, recovery among them.
func (s State) All() []layout.Entry {
	entries := slices.Clone(s.Entries)
	if s.Recovery != "" {
		entries = append(entries, layout.Entry{Seq: layout.RecoverySeq, ID: s.Recovery})
	}
	if s.Trial.ID != "" {
		entries = append(entries, s.Trial)
	}
	return entries
}

// IDs returns the releases that have an entry, recovery among them.
func (s State) IDs() []string {
	var ids []string
	for _, e := range s.All() {
		ids = append(ids, e.ID)
	}
	return ids
}

// Active returns the release that boots next.
func (s State) Active() (layout.Entry, bool) { return s.good(0) }

// Passive returns the release that boots when the active one has used up its tries.
func (s State) Passive() (layout.Entry, bool) { return s.good(1) }

// good returns the nth release that the loader would still try, each id once.
func (s State) good(n int) (layout.Entry, bool) {
	seen := map[string]bool{}
	for _, e := range s.Entries {
		if e.Bad() || seen[e.ID] {
			continue
		}
		if len(seen) == n {
			return e, true
		}
		seen[e.ID] = true
	}
	return layout.Entry{}, false
}

// Failed returns the releases that used up their tries, the newest first.
func (s State) Failed() []layout.Entry {
	var failed []layout.Entry
	for _, e := range s.Entries {
		if e.Bad() && !s.hasGood(e.ID) {
			failed = append(failed, e)
		}
	}
	return failed
}

func (s State) hasGood(id string) bool {
	return slices.ContainsFunc(s.Entries, func(e layout.Entry) bool { return e.ID == id && !e.Bad() })
}

// Describe says in a word or two what an entry is: in the boot menu, behind its name.
func (s State) Describe(e layout.Entry) string {
	active, _ := s.Active()
	passive, _ := s.Passive()
	role := "older"
	switch {
	case e.Seq == layout.RecoverySeq && e.Bad():
		return "recovery, failed"
	case e.Seq == layout.RecoverySeq && !e.Blessed():
		return "recovery, on trial"
	case e.Seq == layout.RecoverySeq:
		return "recovery"
	case e.Bad():
		return "failed"
	case e.Seq == active.Seq:
		role = "active"
	case e.Seq == passive.Seq:
		role = "passive"
	}
	if !e.Blessed() {
		role += ", on trial"
	}
	return role
}

// Has says whether there is an entry of a release.
func (s State) Has(id string) bool {
	return slices.ContainsFunc(s.Entries, func(e layout.Entry) bool { return e.ID == id })
}

// OnTrial says whether a release has to prove healthy. One that has several entries is on trial if its newest one is.
func (s State) OnTrial(id string) bool {
	var newest layout.Entry
	for _, e := range s.Entries {
		if e.ID == id && e.Seq > newest.Seq {
			newest = e
		}
	}
	return newest.Seq > 0 && !newest.Blessed()
}

// Bless returns the state in which a release is blessed and has all its tries, and whether that is another one.
func (s State) Bless(id string) (State, bool) {
	entries := slices.Clone(s.All())
	changed := false
	for i, e := range entries {
		if e.ID != id || e.Seq == layout.RecoverySeq {
			continue
		}
		entries[i] = layout.Blessed(e.Seq, e.ID)
		changed = changed || entries[i] != e
	}
	return NewState(entries), changed
}

// Keep returns the state with the newest entry of each of these releases, and recovery; and the releases that have no
// entry any more.
func (s State) Keep(ids []string) (stay State, gone []string) {
	stay.Recovery, stay.Trial = s.Recovery, s.Trial
	for _, e := range s.Entries {
		if slices.Contains(ids, e.ID) && !stay.Has(e.ID) {
			stay.Entries = append(stay.Entries, e)
		} else if !slices.Contains(ids, e.ID) && !slices.Contains(gone, e.ID) {
			gone = append(gone, e.ID)
		}
	}
	return stay, gone
}

// inState says whether e is one of the entries, whatever its counter is; whether it has one tells the recovery systems
// apart.
func inState(s State, e layout.Entry) bool {
	return slices.ContainsFunc(s.All(), func(x layout.Entry) bool {
		return x.Seq == e.Seq && x.ID == e.ID && (e.Seq != layout.RecoverySeq || x.Counted == e.Counted)
	})
}
