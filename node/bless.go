package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/node/health"
)

// Verdict is what the health checks of a boot have said.
type Verdict struct {
	Checks []api.Check
	Err    error // nil: healthy; an *[UnhealthyError]: not
}

// Assess runs the health checks of the running system until the deadline of a release on trial. It needs no lock: an
// upgrade that is at work must not cost a healthy release its tries. root is "/" or, in tests, a directory. With
// patient a no is asked again until the deadline: for a system that nobody says of when it is up.
func Assess(ctx context.Context, root string, boot layout.Boot, patient bool) Verdict {
	var v Verdict
	if boot.Role != layout.RoleSystem {
		return v
	}
	end := deadline(root, boot, time.Now())
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	h, err := wantedHealth(root, boot)
	if err != nil {
		v.Err = err
		return v
	}
	if !boot.Trial {
		h.Soak = 0
	} else if most := time.Until(end) - lastRound; h.Soak > most {
		h.Soak = max(most, 0) // a config's; for an image's /init has made the deadline later
	}
	v.Checks, v.Err = health.System{Root: root, Health: h, Patient: patient, AuthFiles: authFiles}.Check(ctx)
	if why := failedStage(root, boot); v.Err == nil && why != "" {
		v.Err = &UnhealthyError{Reason: why}
	}
	if v.Err == nil {
		v.Err = mark(root, layout.RunHealthy) // the guard's work is done
	}
	return v
}

// lastRound is left of the deadline for the checks that follow on the soak time.
const lastRound = 30 * time.Second

// Bless gives a release that is healthy all its tries: it ends its trial, or arms it again. What the release brings
// for the boot loaders comes first. An unhealthy system is reported where status finds it, and the error is an
// *[UnhealthyError]; the loader has counted this try already.
func (m *Machine) Bless(v Verdict) (api.Assessment, error) {
	a := api.Assessment{Release: m.Boot.Release, Outcome: api.OutcomeNoTrial, Checks: v.Checks}
	if m.Boot.OnTrial() {
		return m.proveRecovery(a)
	}
	if m.Boot.Role != layout.RoleSystem {
		if m.ESP != nil {
			_ = m.forgetRestart() // a medium that comes up next waits for a person, at worst
			a.Problems = m.raised(m.Recovery, a.Release)
			return a, m.ESP.Mirror()
		}
		return a, nil
	}
	if err := m.installed(); err != nil {
		return a, errors.Join(v.Err, err)
	}
	var unhealthy *UnhealthyError
	if errors.As(v.Err, &unhealthy) {
		a.Outcome = api.OutcomeUnhealthy
		if report := m.reportFailure(a.Release, unhealthy.Reason, outputs(a.Checks)); report != nil {
			return a, errors.Join(v.Err, report)
		}
		return a, errors.Join(v.Err, mark(m.Root, layout.RunUnhealthy))
	}
	if v.Err != nil {
		return a, v.Err
	}
	state, err := m.ESP.State()
	if err != nil {
		return a, err
	}
	a.Outcome = api.OutcomeGood
	if state.OnTrial(a.Release) {
		a.Outcome = api.OutcomeBlessed
		// First: interrupted here, the next try does it.
		r, err := m.State.Release(a.Release)
		if err == nil {
			err = m.updateLoaders(r, nil)
		}
		if err != nil {
			return a, err
		}
	}
	if err := m.ESP.Bless(a.Release); err != nil {
		return a, err
	}
	_ = m.forgetRestart() // as above
	err = mark(m.Root, layout.RunBlessed)
	// Not before: until here the release below is what is fallen back to.
	a.Problems = m.raised(m.State, a.Release)
	// Last: a report of an earlier try is of no use any more, and no harm either.
	report := filepath.Join(m.State.Dir(), layout.FailurePath(a.Release))
	if _, there := os.Stat(report); there == nil {
		err = errors.Join(err, m.FS.Remove(report))
	}
	return a, errors.Join(err, m.settleRecovery(context.Background()))
}

// blessesOnESP says whether [Machine.Bless] changes the ESP alone: the release was blessed before and is healthy, and
// STATE, the store that was booted, has no report to be removed and needs none.
func blessesOnESP(boot layout.Boot, stateDir fs.FS, s loader.State, v Verdict) bool {
	if boot.Role != layout.RoleSystem || v.Err != nil || !s.Has(boot.Release) || s.OnTrial(boot.Release) {
		return false
	}
	if s.Trial.ID != "" && (s.Trial.Bad() || s.Trial.Blessed()) {
		return false // a recovery system was tried
	}
	reported := func(id string) bool {
		_, err := fs.Stat(stateDir, layout.FailurePath(id))
		return err == nil
	}
	return !reported(boot.Release) && !slices.ContainsFunc(s.Entries, func(e layout.Entry) bool {
		return e.Bad() && e.ID != boot.Release && !reported(e.ID)
	})
}

// mark tells the guard that /init left behind what came out, by an empty file.
func mark(root, name string) error {
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

// deadline is when the assessment must have ended: a while before the guard restarts the
// machine, so that a report can be written.
func deadline(root string, boot layout.Boot, now time.Time) time.Time {
	seconds := boot.Deadline
	if seconds <= 0 {
		return now.Add(layout.BlessDeadline * time.Second)
	}
	uptime := now.Sub(started(root, now))
	left := time.Duration(seconds)*time.Second - uptime
	return now.Add(max(left-min(max(left/10, 10*time.Second), time.Minute), time.Second))
}

// started is when the kernel started.
func started(root string, now time.Time) time.Time {
	b, err := os.ReadFile(filepath.Join(root, "proc/uptime"))
	if err != nil {
		return now
	}
	first, _, _ := strings.Cut(string(b), " ")
	s, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return now
	}
	return now.Add(-time.Duration(s * float64(time.Second)))
}

// reportFailure records on STATE why a release failed.
func (m *Machine) reportFailure(id, reason, log string) error {
	return m.report(m.State.Dir(), id, reason, log)
}

// report is reportFailure in a store's folder.
func (m *Machine) report(dir, id, reason, log string) error {
	text := strings.ReplaceAll(reason, "\n", " ") + "\n" + log
	if len(text) > layout.MaxFailureSize {
		text = text[:layout.MaxFailureSize]
	}
	path := filepath.Join(dir, layout.FailurePath(id))
	if err := m.FS.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("report failure of release %s: %w", id, err)
	}
	if err := m.FS.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("report failure of release %s: %w", id, err)
	}
	return nil
}

func outputs(checks []api.Check) string {
	var b strings.Builder
	for _, c := range checks {
		if c.Output != "" {
			fmt.Fprintf(&b, "--- %s\n%s\n", c.Name, strings.TrimRight(c.Output, "\n"))
		}
	}
	return b.String()
}
