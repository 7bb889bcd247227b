package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/layout"
)

// Assessment is what [Machine.Bless] found.
type Assessment struct {
	Release string `json:"release"`
	// Outcome is "blessed", "good already", "not on trial" (recovery, live medium) or "unhealthy".
	Outcome string        `json:"outcome"`
	Checks  []CheckResult `json:"checks,omitempty"`
}

// Bless decides whether the running system is healthy, and if so, ends its trial: from then on
// the loader boots it without counting. An unhealthy system is reported where status finds it,
// and the error is an *[UnhealthyError]; the loader has counted this try already.
func (m *Machine) Bless(ctx context.Context) (Assessment, error) {
	a := Assessment{Release: m.Boot.Release, Outcome: "not on trial"}
	if m.Boot.Role != layout.RoleSystem {
		if m.ESP != nil {
			return a, m.ESP.Mirror()
		}
		return a, nil
	}
	if err := m.installed(); err != nil {
		return a, err
	}
	slots, err := m.ESP.Slots()
	if err != nil {
		return a, err
	}
	trial := false
	for _, e := range slots.Entries {
		trial = trial || e.ID == a.Release && e.Counted
	}
	if !trial {
		a.Outcome = "good already"
		return a, errors.Join(m.mark(layout.RunBlessed), m.ESP.Mirror())
	}

	ctx, cancel := context.WithDeadline(ctx, m.deadline(time.Now()))
	defer cancel()
	a.Checks, err = m.health(ctx)
	var unhealthy *UnhealthyError
	if errors.As(err, &unhealthy) {
		a.Outcome = "unhealthy"
		if report := m.reportFailure(a.Release, unhealthy.Reason, outputs(a.Checks)); report != nil {
			return a, errors.Join(err, report)
		}
		return a, errors.Join(err, m.mark(layout.RunUnhealthy))
	}
	if err != nil {
		return a, err
	}
	if err := m.ESP.Bless(a.Release); err != nil {
		return a, err
	}
	a.Outcome = "blessed"
	// Last: a report of an earlier try is of no use any more, and no harm either.
	return a, errors.Join(m.mark(layout.RunBlessed), m.FS.Remove(filepath.Join(m.State.Dir(), layout.FailurePath(a.Release))))
}

// mark tells the guard that /init left behind what came out, by an empty file.
func (m *Machine) mark(name string) error {
	path := m.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

// deadline is when the assessment must have ended: a while before the guard restarts the
// machine, so that a report can be written.
func (m *Machine) deadline(now time.Time) time.Time {
	seconds := m.Boot.Deadline
	if seconds <= 0 {
		return now.Add(layout.BlessDeadline * time.Second)
	}
	uptime := now.Sub(m.started(now))
	left := time.Duration(seconds)*time.Second - uptime
	return now.Add(max(left-max(left/10, 10*time.Second), time.Second))
}

// started is when the kernel started.
func (m *Machine) started(now time.Time) time.Time {
	b, err := os.ReadFile(m.path("proc/uptime"))
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
	text := strings.ReplaceAll(reason, "\n", " ") + "\n" + log
	if len(text) > layout.MaxFailureSize {
		text = text[:layout.MaxFailureSize]
	}
	path := filepath.Join(m.State.Dir(), layout.FailurePath(id))
	if err := m.FS.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("report failure of release %s: %w", id, err)
	}
	if err := m.FS.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("report failure of release %s: %w", id, err)
	}
	return nil
}

func outputs(checks []CheckResult) string {
	var b strings.Builder
	for _, c := range checks {
		if c.Output != "" {
			fmt.Fprintf(&b, "--- %s\n%s\n", c.Name, strings.TrimRight(c.Output, "\n"))
		}
	}
	return b.String()
}
