package rollout

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

var start = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC) // a Monday

func upgradeTo(image string) *v1alpha1.NodeOpUpgrade {
	return &v1alpha1.NodeOpUpgrade{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "os", UID: "1", Generation: 1},
		Spec:       v1alpha1.NodeOpUpgradeSpec{Image: image},
	}
}

func running(release string, blessed bool) *v1alpha1.NodeReport {
	r := &v1alpha1.NodeRelease{Release: release, Blessed: blessed}
	return &v1alpha1.NodeReport{Schema: v1alpha1.ReportSchema, BootID: "b1", Booted: r, Active: r}
}

// Each transition of a node: where it is, what is seen, what follows.
func TestSteps(t *testing.T) {
	const v1, v2 = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
	fell := running(v1, true)
	fell.Failed = []v1alpha1.NodeRelease{{Release: v2, Reason: "check kubelet failed"}}
	once := running(v1, true)
	once.Active = &v1alpha1.NodeRelease{Release: v2}
	other := running("cccccccccccc", true)
	answer := func(exit api.ExitCode, changed bool, reason string) *v1alpha1.HelperReport {
		return &v1alpha1.HelperReport{Exit: int(exit), Release: v2, Version: "v2", Changed: changed, Reason: reason}
	}
	yes := true
	for name, tc := range map[string]struct {
		step    v1alpha1.Step
		attempt int32
		since   time.Duration // ago
		undo    bool
		boot    string // the node's; the record's is b1
		away    bool
		report  *v1alpha1.NodeReport
		helper  *Helper
		turn    bool
		spec    func(*v1alpha1.NodeOpUpgradeSpec)

		want     v1alpha1.Step // "": the record stays
		reason   string
		args     string
		cordon   bool
		uncordon bool
		drain    bool
	}{
		"staging begins with a pod": {step: v1alpha1.StepStaging, report: running(v1, true),
			args: "upgrade reg/os:v2 -o json --release " + v2 + " --unless-failed --stage"},
		"staging goes on in its pod": {step: v1alpha1.StepStaging, report: running(v1, true), helper: &Helper{},
			args: "upgrade reg/os:v2 -o json --release " + v2 + " --unless-failed --stage"},
		"force tries it again": {step: v1alpha1.StepStaging, report: running(v1, true),
			spec: func(s *v1alpha1.NodeOpUpgradeSpec) { s.Force = &yes },
			args: "upgrade reg/os:v2 -o json --release " + v2 + " --stage"},
		"fetched": {step: v1alpha1.StepStaging, report: running(v1, true),
			helper: &Helper{Ended: true, Report: answer(api.ExitDone, true, "")}, want: v1alpha1.StepStaged},
		"it runs already": {step: v1alpha1.StepStaging, report: running(v2, true),
			helper: &Helper{Ended: true, Report: answer(api.ExitDone, false, "")}, want: v1alpha1.StepBlessed},
		"it failed here before": {step: v1alpha1.StepStaging, report: fell,
			helper: &Helper{Ended: true, Report: answer(api.ExitRefused, false, "it failed")},
			want:   v1alpha1.StepFellBack, reason: "check kubelet failed"},
		"no room": {step: v1alpha1.StepStaging, report: running(v1, true),
			helper: &Helper{Ended: true, Report: answer(api.ExitRefused, false, "3 MiB free")},
			want:   v1alpha1.StepFailed, reason: "3 MiB free"},
		"registry away": {step: v1alpha1.StepStaging, report: running(v1, true),
			helper: &Helper{Ended: true, Report: answer(api.ExitFailed, false, "connection refused")},
			want:   v1alpha1.StepStaging, reason: "connection refused"},
		"registry away for good": {step: v1alpha1.StepStaging, attempt: 3, report: running(v1, true),
			helper: &Helper{Ended: true, Report: answer(api.ExitFailed, false, "connection refused")},
			want:   v1alpha1.StepFailed, reason: "connection refused"},
		"the pod was killed": {step: v1alpha1.StepStaging, report: running(v1, true), helper: &Helper{Ended: true},
			want: v1alpha1.StepStaging, reason: "no answer"},
		"the pod's image is being pulled": {step: v1alpha1.StepStaging, since: 9 * time.Minute,
			report: running(v1, true), helper: &Helper{Waiting: "ErrImagePull"},
			args: "upgrade reg/os:v2 -o json --release " + v2 + " --unless-failed --stage"},
		"the pod's image does not exist": {step: v1alpha1.StepStaging, since: 11 * time.Minute,
			report: running(v1, true), helper: &Helper{Waiting: "ErrImagePull"},
			want: v1alpha1.StepFailed, reason: "ErrImagePull"},
		"away while it fetches": {step: v1alpha1.StepStaging, since: 61 * time.Minute, away: true,
			want: v1alpha1.StepFailed, reason: "not Ready"},

		"not its turn": {step: v1alpha1.StepStaged, report: running(v1, true)},
		"its turn": {step: v1alpha1.StepStaged, report: running(v1, true), turn: true,
			want: v1alpha1.StepCordoning, cordon: true},
		"drains": {step: v1alpha1.StepCordoning, report: running(v1, true), drain: true, cordon: true},

		"restarts": {step: v1alpha1.StepRestarting, report: running(v1, true),
			args: "upgrade reg/os:v2 -o json --release " + v2 + " --unless-failed --reboot"},
		"goes back": {step: v1alpha1.StepRestarting, undo: true, report: running(v2, true),
			args: "rollback " + v1 + " --reboot -o json"},
		"activated, not down yet": {step: v1alpha1.StepRestarting, report: once,
			helper: &Helper{Ended: true, Report: answer(api.ExitDone, true, "")}},
		"the pod ends with its node": {step: v1alpha1.StepRestarting, away: true, helper: &Helper{Ended: true}},
		"it has restarted": {step: v1alpha1.StepRestarting, boot: "b2", away: true, helper: &Helper{Ended: true},
			want: v1alpha1.StepTrial},
		"activation fails": {step: v1alpha1.StepRestarting, report: running(v1, true),
			helper: &Helper{Ended: true, Report: answer(api.ExitFailed, false, "I/O error")},
			want:   v1alpha1.StepRestarting, reason: "I/O error"},
		"does not restart": {step: v1alpha1.StepRestarting, since: 61 * time.Minute, away: true,
			want: v1alpha1.StepFailed, reason: "did not restart"},

		"on trial":               {step: v1alpha1.StepTrial, boot: "b2", report: running(v2, false)},
		"no word yet":            {step: v1alpha1.StepTrial, boot: "b2"},
		"blessed, not yet Ready": {step: v1alpha1.StepTrial, boot: "b2", away: true, report: running(v2, true)},
		"blessed": {step: v1alpha1.StepTrial, boot: "b2", report: running(v2, true), want: v1alpha1.StepBlessed,
			uncordon: true},
		"blessed, then recovery": {step: v1alpha1.StepTrial, boot: "b2", report: running(v2, true),
			spec: func(s *v1alpha1.NodeOpUpgradeSpec) { s.UpgradeRecovery = &yes },
			want: v1alpha1.StepRecovery, uncordon: true},
		"fell back": {step: v1alpha1.StepTrial, boot: "b3", report: fell, want: v1alpha1.StepFellBack,
			reason: "check kubelet failed"},
		"fell back, and is uncordoned": {step: v1alpha1.StepTrial, boot: "b3", report: fell,
			spec: func(s *v1alpha1.NodeOpUpgradeSpec) { s.UncordonOnFailure = &yes },
			want: v1alpha1.StepFellBack, reason: "check kubelet failed", uncordon: true},
		"started once as something else": {step: v1alpha1.StepTrial, boot: "b3", report: once},
		"somebody chose another release": {step: v1alpha1.StepTrial, boot: "b3", report: other,
			want: v1alpha1.StepFellBack, reason: "release cccccccccccc runs"},
		"restarted before it was activated": {step: v1alpha1.StepTrial, boot: "b2", report: running(v1, true),
			want: v1alpha1.StepRestarting, reason: "before the release was activated"},
		"never blessed": {step: v1alpha1.StepTrial, since: 61 * time.Minute, boot: "b2", report: running(v2, false),
			want: v1alpha1.StepFailed, reason: "not blessed within 1h0m0s"},
		"never back": {step: v1alpha1.StepTrial, since: 61 * time.Minute, boot: "b2", away: true,
			want: v1alpha1.StepFailed, reason: "not Ready"},
		"back after all": {step: v1alpha1.StepFailed, boot: "b2", report: running(v2, true),
			want: v1alpha1.StepBlessed, uncordon: true},
		"went back": {step: v1alpha1.StepTrial, undo: true, boot: "b3", report: running(v1, true),
			want: v1alpha1.StepRolledBack, uncordon: true},

		"recovery": {step: v1alpha1.StepRecovery, report: running(v2, true),
			args: "upgrade reg/os:v2 -o json --release " + v2 + " --recovery --no-trial"},
		"recovery is done": {step: v1alpha1.StepRecovery, report: running(v2, true),
			helper: &Helper{Ended: true, Report: answer(api.ExitDone, true, "")}, want: v1alpha1.StepBlessed,
			uncordon: true},
		"recovery fails": {step: v1alpha1.StepRecovery, attempt: 3, report: running(v2, true),
			helper: &Helper{Ended: true, Report: answer(api.ExitFailed, false, "full")},
			want:   v1alpha1.StepFailed, reason: "full"},

		"ended": {step: v1alpha1.StepBlessed, report: running(v2, true)},
	} {
		u := upgradeTo("reg/os:v2")
		if tc.spec != nil {
			tc.spec(&u.Spec)
		}
		boot := tc.boot
		if boot == "" {
			boot = "b1"
		}
		before := []v1alpha1.Step{v1alpha1.StepStaging, v1alpha1.StepStaged, v1alpha1.StepCordoning}
		cordoned := !slices.Contains(before, tc.step)
		n := Node{Name: "n", Ready: !tc.away, BootID: boot, Report: tc.report, Cordoned: cordoned}
		if cordoned {
			n.CordonedBy = Key(u)
		}
		r := v1alpha1.NodeRecord{Rollout: Key(u), Target: Target(u.Spec), Wave: 1, Step: tc.step, BootID: "b1",
			Since: metav1.NewTime(start.Add(-tc.since)), Image: u.Spec.Image, Release: v2, From: v1,
			Attempt: tc.attempt, Undo: tc.undo}
		a := step{now: start, u: u, node: n, r: r}.next(tc.helper, tc.turn)
		var got v1alpha1.Step
		var reason, args string
		if a.Record != nil {
			got, reason = a.Record.Step, a.Record.Reason
			if got != tc.step && !a.Record.Since.Time.Equal(start) {
				t.Errorf("%s: since %s", name, a.Record.Since)
			}
		}
		if a.Helper != nil {
			args = strings.Join(a.Helper.Args, " ")
		}
		if got != tc.want || !strings.Contains(reason, tc.reason) || args != tc.args || a.Cordon != tc.cordon ||
			a.Uncordon != tc.uncordon || a.Drain != tc.drain {
			t.Errorf("%s:\ngot  %q, reason %q, args %q, cordon %v, uncordon %v, drain %v\n"+
				"want %q, reason %q, args %q, cordon %v, uncordon %v, drain %v", name,
				got, reason, args, a.Cordon, a.Uncordon, a.Drain,
				tc.want, tc.reason, tc.args, tc.cordon, tc.uncordon, tc.drain)
		}
	}
}

// What an eviction finds decides what follows.
func TestAfterDrain(t *testing.T) {
	u := upgradeTo("reg/os:v2")
	seconds := int32(60)
	u.Spec.DrainOptions = &v1alpha1.DrainOptions{TimeoutSeconds: &seconds}
	for name, tc := range map[string]struct {
		since time.Duration
		drain Drain
		want  v1alpha1.Step
	}{
		"gone":            {0, Drain{}, v1alpha1.StepRestarting},
		"one is left":     {0, Drain{Left: []string{"a/b"}}, ""},
		"a budget holds":  {61 * time.Second, Drain{Left: []string{"a/b: PodDisruptionBudget"}}, v1alpha1.StepFailed},
		"it may go away":  {0, Drain{Err: errNoController}, ""},
		"it does not end": {61 * time.Second, Drain{Err: errNoController}, v1alpha1.StepFailed},
	} {
		r := &v1alpha1.NodeRecord{
			Rollout: Key(u), Step: v1alpha1.StepCordoning, Since: metav1.NewTime(start.Add(-tc.since)),
		}
		n := Node{Name: "n", Ready: true, BootID: "b1", Cordoned: true, CordonedBy: Key(u), Record: r}
		a := AfterDrain(start, u, n, tc.drain)
		var got v1alpha1.Step
		if a.Record != nil {
			got = a.Record.Step
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
		if got == "" && a.After != PollDrain {
			t.Errorf("%s: asked again after %s", name, a.After)
		}
	}
}

type constError string

func (e constError) Error() string { return string(e) }

const errNoController = constError("pod a/b has no controller")

// A window is open when it says so, also over midnight, and where clocks change.
func TestWindows(t *testing.T) {
	night := v1alpha1.Window{Days: []string{"Mon"}, Start: "22:30", Duration: metav1.Duration{Duration: 6 * time.Hour}}
	berlin := v1alpha1.Window{Start: "01:30", Duration: metav1.Duration{Duration: time.Hour},
		TimeZone: "Europe/Berlin"}
	for _, tc := range []struct {
		window v1alpha1.Window
		now    string
		open   bool
		next   string
	}{
		{night, "2026-03-02T22:29:59Z", false, "2026-03-02T22:30:00Z"},
		{night, "2026-03-02T22:30:00Z", true, ""},
		{night, "2026-03-03T04:29:59Z", true, ""},
		{night, "2026-03-03T04:30:00Z", false, "2026-03-09T22:30:00Z"},
		{berlin, "2026-03-29T00:45:00Z", true, ""}, // 02:00 is 03:00 that night
		{berlin, "2026-03-29T01:31:00Z", false, "2026-03-29T23:30:00Z"},
	} {
		now, err := time.Parse(time.RFC3339, tc.now)
		if err != nil {
			t.Fatal(err)
		}
		open, next, err := Open([]v1alpha1.Window{tc.window}, now)
		got := ""
		if !next.IsZero() {
			got = next.UTC().Format(time.RFC3339)
		}
		if err != nil || open != tc.open || got != tc.next {
			t.Errorf("%s %+v: %v, next %s, %v; want %v, %s", tc.now, tc.window, open, got, err, tc.open, tc.next)
		}
	}
	if open, _, err := Open(nil, start); !open || err != nil {
		t.Errorf("no windows: %v, %v", open, err)
	}
	for _, bad := range []v1alpha1.Window{
		{Start: "25:00", Duration: metav1.Duration{Duration: time.Hour}},
		{Start: "01:00"},
		{Start: "01:00", Duration: metav1.Duration{Duration: time.Hour}, TimeZone: "Nowhere/Atall"},
	} {
		if _, _, err := Open([]v1alpha1.Window{bad}, start); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// A helper pod answers for one attempt at one step of one rollout, and for no other.
func TestHelperID(t *testing.T) {
	r := v1alpha1.NodeRecord{Rollout: "a/b@1", Target: "t", Step: v1alpha1.StepRestarting}
	ids := map[string]bool{HelperID(r): true}
	for _, change := range []func(*v1alpha1.NodeRecord){
		func(r *v1alpha1.NodeRecord) { r.Rollout = "a/b@2" },
		func(r *v1alpha1.NodeRecord) { r.Target = "u" },
		func(r *v1alpha1.NodeRecord) { r.Step = v1alpha1.StepStaging },
		func(r *v1alpha1.NodeRecord) { r.Attempt = 1 },
		func(r *v1alpha1.NodeRecord) { r.Undo = true },
	} {
		other := r
		change(&other)
		ids[HelperID(other)] = true
	}
	if len(ids) != 6 {
		t.Errorf("%d ids of 6 pods", len(ids))
	}
	r.Since, r.Reason = metav1.NewTime(start), "why"
	if !ids[HelperID(r)] {
		t.Error("the id of a pod changes with its record's reason")
	}
}
