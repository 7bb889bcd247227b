package node

import (
	"cmp"
	"slices"

	"github.com/kairos-buildkit/kairos/layout"
)

// Slots says what the loader does at the next start.
type Slots struct {
	// Entries are the releases on STATE in the order in which the loader tries them: the
	// highest sequence number first, and those that used up their tries after all others.
	Entries []layout.Entry
	// Recovery is the id of the recovery system, or "".
	Recovery string
}

// newSlots orders entries as the loader does.
func newSlots(entries []layout.Entry) Slots {
	var s Slots
	for _, e := range entries {
		if e.Seq == layout.RecoverySeq {
			s.Recovery = e.ID
		} else {
			s.Entries = append(s.Entries, e)
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

// Active returns the release that boots next.
func (s Slots) Active() (layout.Entry, bool) { return s.good(0) }

// Passive returns the release that boots when the active one has used up its tries.
func (s Slots) Passive() (layout.Entry, bool) { return s.good(1) }

// good returns the nth release that the loader would still try, each id once.
func (s Slots) good(n int) (layout.Entry, bool) {
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
func (s Slots) Failed() []layout.Entry {
	var failed []layout.Entry
	for _, e := range s.Entries {
		if e.Bad() && !s.hasGood(e.ID) {
			failed = append(failed, e)
		}
	}
	return failed
}

func (s Slots) hasGood(id string) bool {
	return slices.ContainsFunc(s.Entries, func(e layout.Entry) bool { return e.ID == id && !e.Bad() })
}

// Has says whether there is an entry of a release.
func (s Slots) Has(id string) bool {
	return slices.ContainsFunc(s.Entries, func(e layout.Entry) bool { return e.ID == id })
}
