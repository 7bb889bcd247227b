package node

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// fate is what becomes of one start of a release.
type fate int

const (
	stays     fate = iota // it is blessed, and runs until somebody restarts the machine
	loads                 // it does not come as far as the health checks: damaged, a panic, a hang
	unhealthy             // the health checks say no
	panics                // it is blessed, and the kernel panics later, with all services up
)

// live starts a machine so many times, as firmware, loader and the kernel's panic= do it, and returns what was
// started, such as "b×3 a". at says what becomes of a release's nth start.
func live(t *testing.T, disk, firmware, cache string, starts int, at func(id string, nth int) fate) string {
	t.Helper()
	var runs []string
	count := map[string]int{}
	last, times := "", 0
	flush := func() {
		switch {
		case times > 1:
			runs = append(runs, fmt.Sprintf("%s×%d", last, times))
		case times == 1:
			runs = append(runs, last)
		}
		times = 0
	}
	for range starts {
		state, err := fakeESP(disk, firmware, nil).State()
		if err != nil {
			t.Fatal(err)
		}
		id := "recovery"
		if e, ok := state.Active(); ok {
			id = e.ID
		}
		if id != last {
			flush()
		}
		last, times = id, times+1
		m := fakeMachine(t, disk, firmware, id, cache, nil)
		m.Boot.Trial = state.OnTrial(id)
		if id == "recovery" {
			m.Boot.Release, m.Boot.Role = state.Recovery, layout.RoleRecovery
		} else {
			use(t, m, id, 1)
		}
		count[id]++
		switch at(id, count[id]) {
		case stays, panics:
			_, err = m.Bless(Verdict{})
		case unhealthy:
			if _, err = m.Bless(Verdict{Err: &UnhealthyError{Reason: "no disk"}}); err != nil {
				err = nil
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	flush()
	return strings.Join(runs, " ")
}

// Whatever becomes of the releases, each sequence ends where something runs, or with recovery: the release before is
// never lost, and none that does not come up is started more than nine times in a row.
func TestFates(t *testing.T) {
	always := func(f fate) func(int) fate { return func(int) fate { return f } }
	from := func(n int, before, after fate) func(int) fate {
		return func(nth int) fate {
			if nth < n {
				return before
			}
			return after
		}
	}
	for name, test := range map[string]struct {
		a, b, recovery func(nth int) fate // a was blessed, b comes after it, on trial
		want           string
		passive        string // "" where none is left
	}{
		"both are good":                  {always(stays), always(stays), always(stays), "b×40", "a"},
		"b panics before the blessing":   {always(stays), always(loads), always(stays), "b×3 a×37", ""},
		"b is unhealthy":                 {always(stays), always(unhealthy), always(stays), "b×3 a×37", ""},
		"b panics once, after it":        {always(stays), from(2, panics, stays), always(stays), "b×40", "a"},
		"b panics after each blessing":   {always(stays), always(panics), always(stays), "b×40", "a"},
		"b panics after it, then before": {always(stays), from(5, panics, loads), always(stays), "b×13 a×27", ""},
		"b stops loading":                {always(stays), from(2, stays, loads), always(stays), "b×10 a×30", ""},
		"b and a stop loading": {
			always(loads), from(2, stays, loads), always(stays), "b×10 a×9 recovery×21", "",
		},
		"recovery and b are damaged":   {always(stays), always(loads), always(loads), "b×3 a×37", ""},
		"recovery is, b stops loading": {always(stays), from(2, stays, loads), always(loads), "b×10 a×30", ""},
		"all three are damaged":        {always(loads), always(loads), always(loads), "b×3 a×9 recovery×28", ""},
		"all three break, b after a while": {
			always(loads), from(9, stays, loads), always(loads), "b×17 a×9 recovery×14", "",
		},
	} {
		for _, firmware := range []string{layout.FirmwareUEFI, layout.FirmwareBIOS} {
			t.Run(name+"/"+firmware, func(t *testing.T) {
				a, b, _ := threeImages(t)
				disk, cache := t.TempDir(), t.TempDir()
				m := install(t, disk, firmware, cache, a)
				if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
					t.Fatal(err)
				}
				got := live(t, disk, firmware, cache, 40, func(id string, nth int) fate {
					switch id {
					case a.id:
						return test.a(nth)
					case b.id:
						return test.b(nth)
					}
					return test.recovery(nth)
				})
				if got = strings.NewReplacer(a.id, "a", b.id, "b").Replace(got); got != test.want {
					t.Errorf("started %s, want %s", got, test.want)
				}
				state, err := m.ESP.State()
				if err != nil {
					t.Fatal(err)
				}
				passive, _ := state.Passive()
				if id := strings.NewReplacer(a.id, "a", b.id, "b").Replace(passive.ID); id != test.passive {
					t.Errorf("passive is %q, want %q", id, test.passive)
				}
				// Nothing was removed on the way: whoever repairs finds all three.
				for _, id := range []string{a.id, b.id} {
					if !m.complete(m.State, id) || !slices.Contains(state.IDs(), id) {
						t.Errorf("%s is gone", id)
					}
				}
				if state.Recovery != a.id || !m.complete(m.Recovery, a.id) {
					t.Errorf("recovery is %q", state.Recovery)
				}
			})
		}
	}
}
