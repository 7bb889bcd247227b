package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
)

// An unattended medium that stays in its drive starts what it has installed, or waits: in no case it installs again.
func TestAgain(t *testing.T) {
	const medium, other = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
	state := func(entries ...layout.Entry) loader.State { return loader.NewState(entries) }
	failed := layout.Entry{Seq: 1, ID: medium, Counted: true, Done: 3}
	for name, c := range map[string]struct {
		f     found
		start bool
		why   string
	}{
		"installed a moment ago": {
			f:     found{state: state(layout.OnTrial(1, medium), layout.Entry{ID: medium}), chooses: true},
			start: true},
		"healthy": {
			f:     found{state: state(layout.Blessed(1, medium), layout.Entry{ID: medium}), chooses: true},
			start: true},
		"upgraded since: only its recovery system is the medium's": {
			f:     found{state: state(layout.Blessed(3, other), layout.Entry{ID: medium}), chooses: true},
			start: true},
		"BIOS": {
			f:   found{state: state(layout.Blessed(1, medium))},
			why: "take the medium out"},
		"the firmware prefers the medium": {
			f:   found{state: state(layout.Blessed(1, medium)), chooses: true, restarted: true},
			why: "firmware's setup"},
		"it fails": {
			f:   found{state: state(failed, layout.Entry{ID: medium}), chooses: true},
			why: "all its tries failed"},
		"another system": {
			f:   found{state: state(layout.Blessed(1, other), layout.Entry{ID: other}), chooses: true},
			why: "not from this medium"},
		"damaged": {f: found{err: errors.New("no FAT"), chooses: true}, why: "cannot be read"},
	} {
		c.f.device, c.f.medium = "/dev/vda", medium
		start, why := c.f.again()
		if start != c.start || !strings.Contains(why, c.why) || (why == "") != start {
			t.Errorf("%s: start %v, %q", name, start, why)
		}
		e := &InstalledError{Device: "/dev/vda", Release: medium, Start: start, Why: why}
		if !start && !strings.Contains(e.Error(), "force: true") {
			t.Errorf("%s: %v", name, e)
		}
	}
}
