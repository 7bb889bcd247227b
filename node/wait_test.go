package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kairos-buildkit/kairos/api"
)

// What becomes of a release is in the boot entries, whoever asks and however often the machine has restarted.
func TestWait(t *testing.T) {
	slot := func(id string, blessed bool) *api.Slot { return &api.Slot{Release: id, Blessed: blessed} }
	installed := func(booted, active *api.Slot, failed ...api.Slot) api.Status {
		return api.Status{Mode: api.ModeInstalled, Booted: booted, Active: active, Failed: failed}
	}
	why := api.Slot{Release: "b", Failure: &api.Failure{Reason: "no disk"}}
	for name, c := range map[string]struct {
		release string
		states  []api.Status // one each second; the last one stays
		outcome string
		reason  string
		fails   string
	}{
		"blessed already": {"b", []api.Status{installed(slot("b", true), slot("b", true))},
			api.OutcomeBlessed, "", ""},
		"on trial, then blessed": {"b", []api.Status{
			installed(slot("b", false), slot("b", false)), installed(slot("b", true), slot("b", true)),
		}, api.OutcomeBlessed, "", ""},
		"fell back": {"b", []api.Status{installed(slot("a", true), slot("a", true), why)},
			api.OutcomeFellBack, "no disk", ""},
		"fell back without a report": {"b", []api.Status{
			installed(slot("a", true), slot("a", true), api.Slot{Release: "b"}),
		}, api.OutcomeFellBack, usedUp, ""},
		"fell back to recovery": {"b", []api.Status{
			{Mode: api.ModeRecovery, Booted: slot("r", false), Failed: []api.Slot{why}},
		}, api.OutcomeFellBack, "no disk", ""},
		"the last one, which failed": {"", []api.Status{installed(slot("a", true), slot("a", true), why)},
			api.OutcomeFellBack, "no disk", ""},
		"the last one": {"", []api.Status{installed(slot("b", true), slot("b", true))},
			api.OutcomeBlessed, "", ""},
		"not restarted": {"b", []api.Status{installed(slot("a", true), slot("b", false))}, "", "",
			"neither blessed nor given up"},
		"another one": {"x", []api.Status{installed(slot("a", true), slot("b", false))}, "", "", "does not boot next"},
		"a medium":    {"", []api.Status{{Mode: api.ModeLive}}, "", "", "live medium"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				asked := 0
				r, err := Wait(ctx, c.release, func() (api.Status, error) {
					asked++
					return c.states[min(asked, len(c.states))-1], ErrNotKnown // of the other partition
				}, time.Second)
				if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("%+v, %v", r, err)
				}
				if r.Outcome != c.outcome || c.reason != "" && (r.Failure == nil || r.Failure.Reason != c.reason) {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

// What becomes of a recovery system is known when it has the old one's place, or when it has failed.
func TestWaitForRecovery(t *testing.T) {
	installed := func(recovery string, trial *api.RecoveryTrial) api.Status {
		return api.Status{Mode: api.ModeInstalled, Recovery: &api.Slot{Release: recovery}, RecoveryTrial: trial}
	}
	trial := func(state, why string) *api.RecoveryTrial {
		t := &api.RecoveryTrial{State: state, Slot: api.Slot{Release: "b"}}
		if why != "" {
			t.Failure = &api.Failure{Reason: why, Log: "log"}
		}
		return t
	}
	on := func(state string) api.Status { return installed("a", trial(state, "")) }
	for name, c := range map[string]struct {
		states  []api.Status
		outcome string
		failure *api.Failure
		fails   string
	}{
		"tried, then there": {[]api.Status{
			on(api.TrialPending), on(api.TrialRunning), on(api.TrialPassed), installed("b", nil),
		}, api.OutcomeBlessed, nil, ""},
		"there already": {[]api.Status{installed("b", nil)}, api.OutcomeBlessed, nil, ""},
		"failed": {[]api.Status{on(api.TrialPending), installed("a", trial(api.TrialFailed, "no disk"))},
			api.OutcomeFellBack, &api.Failure{Reason: "no disk", Log: "log"}, ""},
		"failed without a word": {[]api.Status{on(api.TrialFailed)}, api.OutcomeFellBack,
			&api.Failure{Reason: neverUp}, ""},
		"passed, never healthy after it": {[]api.Status{on(api.TrialPassed)}, "", nil,
			"neither blessed nor given up"},
		"another one": {[]api.Status{installed("a", nil)}, "", nil, "not this node's recovery system"},
		"a medium":    {[]api.Status{{Mode: api.ModeLive}}, "", nil, "live medium"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				asked := 0
				r, err := WaitRecovery(ctx, "b", func() (api.Status, error) {
					asked++
					return c.states[min(asked, len(c.states))-1], nil
				}, time.Second)
				if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("%+v, %v", r, err)
				}
				if d := cmp.Diff(c.failure, r.Failure); r.Outcome != c.outcome || d != "" {
					t.Errorf("%+v: %s", r, d)
				}
			})
		})
	}
}

// A caller that repeats its command is told of a release that failed, by an error of its own.
func TestFailedIsRefused(t *testing.T) {
	a, b, _ := threeImages(t)
	m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
		t.Fatal(err)
	}
	if err := m.RefuseFailed(b.id); err != nil {
		t.Errorf("it is on trial: %v", err)
	}
	useUp(t, m, b.id)
	var failed *FailedError
	var refused *RefusedError
	if err := m.RefuseFailed(b.id); !errors.As(err, &failed) || failed.Release != b.id || !errors.As(err, &refused) {
		t.Errorf("%v", err)
	}
}
