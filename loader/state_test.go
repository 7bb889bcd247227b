package loader

import (
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

const (
	idA = "aaaaaaaaaaaa"
	idB = "bbbbbbbbbbbb"
	idC = "cccccccccccc"
)

func entry(seq uint32, id string, left ...uint8) layout.Entry {
	e := layout.Entry{Seq: seq, ID: id}
	if len(left) > 0 {
		e.Counted, e.Left, e.Done = true, left[0], layout.Tries-left[0]
	}
	return e
}

func TestRolesFollowTheLoader(t *testing.T) {
	for name, c := range map[string]struct {
		entries                   []layout.Entry
		active, passive, recovery string
		failed                    int
	}{
		"nothing":   {},
		"fresh":     {entries: []layout.Entry{entry(1, idA), entry(0, idC)}, active: idA, recovery: idC},
		"upgraded":  {entries: []layout.Entry{entry(1, idA), entry(2, idB, 3)}, active: idB, passive: idA},
		"on trial":  {entries: []layout.Entry{entry(1, idA), entry(2, idB, 1)}, active: idB, passive: idA},
		"fell back": {entries: []layout.Entry{entry(1, idA), entry(2, idB, 0)}, active: idA, failed: 1},
		"blessed":   {entries: []layout.Entry{entry(1, idA), layout.Blessed(2, idB)}, active: idB, passive: idA},
		"blessed fails": {entries: []layout.Entry{
			layout.Blessed(1, idA), {Seq: 2, ID: idB, Counted: true, Left: 1, Done: 8},
		}, active: idB, passive: idA},
		"blessed failed": {entries: []layout.Entry{layout.Blessed(1, idA), {Seq: 2, ID: idB, Counted: true, Done: 9}},
			active: idA, failed: 1},
		"retried failed": {entries: []layout.Entry{entry(1, idA), entry(2, idB, 0), entry(3, idB, 3)}, active: idB,
			passive: idA},
		"all failed": {entries: []layout.Entry{entry(1, idA, 0), entry(0, idC)}, recovery: idC, failed: 1},
	} {
		s := NewState(c.entries)
		if e, _ := s.Active(); e.ID != c.active {
			t.Errorf("%s: active %s", name, e.ID)
		}
		if e, _ := s.Passive(); e.ID != c.passive {
			t.Errorf("%s: passive %s", name, e.ID)
		}
		if s.Recovery != c.recovery || len(s.Failed()) != c.failed {
			t.Errorf("%s: recovery %s, %d failed", name, s.Recovery, len(s.Failed()))
		}
	}
}
