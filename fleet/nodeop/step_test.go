package nodeop

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

var start = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// What follows from each step, and what is there of it. The spec has everything, and no stopOnFailure.
func TestSteps(t *testing.T) {
	waits := func(since time.Duration) *Job { return &Job{Name: "j", Waiting: "why", Since: start.Add(-since)} }
	for name, tc := range map[string]struct {
		step      v1alpha1.Step
		ago       time.Duration // when it began
		preflight *Preflight
		job       *Job
		helper    *rollout.Helper
		attempt   int32
		booted    bool // in another boot than the record's
		away      bool
		spec      func(*v1alpha1.NodeOpSpec)
		want      v1alpha1.Step
		reason    string
		is        func(Act) bool
	}{
		"a preflight is asked": {step: v1alpha1.StepPreflight, is: func(a Act) bool { return a.Preflight }},
		"it goes on": {step: v1alpha1.StepPreflight, preflight: &Preflight{},
			is: func(a Act) bool { return a.Preflight }},
		"nothing to do": {step: v1alpha1.StepPreflight, preflight: &Preflight{Ended: true, Skip: "done"},
			want: v1alpha1.StepSkipped, reason: "skipped by preflight: done"},
		"preflight failed": {step: v1alpha1.StepPreflight, preflight: &Preflight{Ended: true, Failed: "Error"},
			want: v1alpha1.StepFailed, reason: "preflight failed: Error"},
		"preflight says go": {step: v1alpha1.StepPreflight, preflight: &Preflight{Ended: true},
			want: v1alpha1.StepCordoning, is: func(a Act) bool { return a.Cordon }},
		"without drain": {step: v1alpha1.StepPreflight, preflight: &Preflight{Ended: true},
			spec: func(s *v1alpha1.NodeOpSpec) { s.DrainOptions = nil },
			want: v1alpha1.StepStarting, is: func(a Act) bool { return a.Cordon }},
		"drain without cordon": {step: v1alpha1.StepPreflight, preflight: &Preflight{Ended: true},
			spec: func(s *v1alpha1.NodeOpSpec) { s.Cordon = nil },
			want: v1alpha1.StepStarting, is: func(a Act) bool { return !a.Cordon }},
		"preflight cannot begin": {step: v1alpha1.StepPreflight, preflight: &Preflight{Waiting: "ErrImagePull"},
			ago: 5 * time.Minute, want: v1alpha1.StepFailed, reason: "its pod waits: ErrImagePull"},
		"preflight of a node that is gone": {step: v1alpha1.StepPreflight, ago: 5 * time.Minute, away: true,
			want: v1alpha1.StepFailed, reason: "within 2m0s: the node is not Ready"},

		"drain":        {step: v1alpha1.StepCordoning, is: func(a Act) bool { return a.Drain && a.Cordon }},
		"make the Job": {step: v1alpha1.StepStarting, is: func(a Act) bool { return a.Job }},
		"the Job is there": {step: v1alpha1.StepStarting, job: &Job{Name: "j"}, want: v1alpha1.StepRunning,
			is: func(a Act) bool { return a.Record.Job == "j" }},

		"it runs":   {step: v1alpha1.StepRunning, job: &Job{}, ago: 99 * time.Hour},
		"it failed": {step: v1alpha1.StepRunning, job: &Job{Failed: "x"}, want: v1alpha1.StepFailed, reason: "x"},
		"it is gone": {step: v1alpha1.StepRunning, want: v1alpha1.StepFailed,
			reason: "whether the command has run is not known", is: func(a Act) bool { return !a.Job }},
		"its image may come": {step: v1alpha1.StepRunning, ago: time.Hour, job: waits(time.Minute)},
		"its image does not come": {step: v1alpha1.StepRunning, job: waits(11 * time.Minute),
			want: v1alpha1.StepFailed, reason: "did not begin within 10m0s: why",
			is: func(a Act) bool { return a.RemoveJob }},
		"it ended well": {step: v1alpha1.StepRunning, job: &Job{Complete: true}, want: v1alpha1.StepRestarting,
			is: func(a Act) bool { return a.Record.BootID == "boot" && !a.Uncordon }},
		"it ended well, no restart": {step: v1alpha1.StepRunning, job: &Job{Complete: true},
			spec: func(s *v1alpha1.NodeOpSpec) { s.RebootOnSuccess = nil },
			want: v1alpha1.StepCompleted, is: func(a Act) bool { return a.Uncordon }},

		"restart": {step: v1alpha1.StepRestarting,
			is: func(a Act) bool { return a.Helper != nil && a.Helper.Reboot == "boot" && a.Helper.Args == nil }},
		"restart refused": {step: v1alpha1.StepRestarting,
			helper: &rollout.Helper{Ended: true, Report: &v1alpha1.HelperReport{Exit: 1, Reason: "no"}},
			want:   v1alpha1.StepRestarting, reason: "restart: no",
			is: func(a Act) bool { return a.Record.Attempt == 1 }},
		"restart refused again": {step: v1alpha1.StepRestarting, attempt: restartTries,
			helper: &rollout.Helper{Ended: true, Report: &v1alpha1.HelperReport{Exit: 1, Reason: "no"}},
			want:   v1alpha1.StepFailed, reason: "restart: no"},
		"pod ended well, same boot": {step: v1alpha1.StepRestarting,
			helper: &rollout.Helper{Ended: true, Report: &v1alpha1.HelperReport{}}},
		"pod ended well, same boot, for long": {step: v1alpha1.StepRestarting, ago: 6 * time.Minute,
			helper: &rollout.Helper{Ended: true, Report: &v1alpha1.HelperReport{}}, want: v1alpha1.StepRestarting,
			reason: "the node did not restart"},
		"its pod cannot begin": {step: v1alpha1.StepRestarting, ago: 11 * time.Minute,
			helper: &rollout.Helper{Waiting: "ErrImagePull"}, want: v1alpha1.StepFailed, reason: "ErrImagePull"},
		"another boot, not Ready": {step: v1alpha1.StepRestarting, booted: true, away: true},
		"another boot, Ready": {step: v1alpha1.StepRestarting, booted: true, want: v1alpha1.StepCompleted,
			is: func(a Act) bool { return a.Uncordon }},
		"another boot, never Ready": {step: v1alpha1.StepRestarting, booted: true, away: true, ago: 2 * time.Hour,
			want: v1alpha1.StepFailed, reason: "not Ready again within 1h0m0s"},
		"not restarted": {step: v1alpha1.StepRestarting, ago: 2 * time.Hour, want: v1alpha1.StepFailed,
			reason: "did not restart within 1h0m0s"},
		"an end": {step: v1alpha1.StepCompleted},
	} {
		op := &v1alpha1.NodeOp{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "op", UID: "1"}}
		everything(&op.Spec)
		if tc.spec != nil {
			tc.spec(&op.Spec)
		}
		n := rollout.Node{Name: "n", Ready: !tc.away, BootID: "boot", Op: &v1alpha1.NodeRecord{
			Rollout: rollout.Key(op), Step: tc.step, Since: metav1.NewTime(start.Add(-tc.ago)), Attempt: tc.attempt,
		}}
		if tc.step == v1alpha1.StepRestarting || tc.step == v1alpha1.StepRunning {
			n.Cordoned, n.CordonedBy = true, rollout.Key(op)
		}
		if tc.step == v1alpha1.StepRestarting {
			n.Op.BootID = "boot"
		}
		if tc.booted {
			n.BootID = "another"
		}
		d := Decide(Input{Now: start, Op: op, Nodes: []rollout.Node{n},
			Preflight: func(string) *Preflight { return tc.preflight },
			Job:       func(string) *Job { return tc.job },
			Helper:    func(string, string) *rollout.Helper { return tc.helper }})
		a := act(n)
		if len(d.Acts) > 0 {
			a = d.Acts[0]
		}
		var got v1alpha1.Step
		var reason string
		if a.Record != nil {
			got, reason = a.Record.Step, a.Record.Reason
		}
		if got != tc.want || !strings.Contains(reason, tc.reason) || tc.is != nil && !tc.is(a) {
			t.Errorf("%s: %q, %q, %+v; want %q, %q", name, got, reason, a, tc.want, tc.reason)
		}
		if tc.want == "" && !tc.step.Ended() && d.After == 0 && tc.step != v1alpha1.StepRunning {
			t.Errorf("%s: nobody asks again", name)
		}
	}
}

func TestAfterDrain(t *testing.T) {
	op := &v1alpha1.NodeOp{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "op", UID: "1"}}
	everything(&op.Spec)
	seconds := int32(60)
	op.Spec.DrainOptions.TimeoutSeconds = &seconds
	for name, tc := range map[string]struct {
		ago  time.Duration
		d    rollout.Drain
		want v1alpha1.Step
	}{
		"drained":   {0, rollout.Drain{}, v1alpha1.StepStarting},
		"not yet":   {time.Minute, rollout.Drain{Left: []string{"a/b"}}, ""},
		"too late":  {61 * time.Second, rollout.Drain{Left: []string{"a/b"}}, v1alpha1.StepFailed},
		"forbidden": {61 * time.Second, rollout.Drain{Err: errors.New("no controller")}, v1alpha1.StepFailed},
	} {
		n := rollout.Node{Name: "n", Cordoned: true, CordonedBy: rollout.Key(op), Op: &v1alpha1.NodeRecord{
			Rollout: rollout.Key(op), Step: v1alpha1.StepCordoning, Since: metav1.NewTime(start.Add(-tc.ago)),
		}}
		a := AfterDrain(start, op, n, tc.d)
		var got v1alpha1.Step
		if a.Record != nil {
			got = a.Record.Step
		}
		if got != tc.want || a.Uncordon {
			t.Errorf("%s: %+v", name, a)
		}
		n.Op.Rollout = "another"
		if a := AfterDrain(start, op, n, tc.d); a.Record != nil {
			t.Errorf("%s: it has another object's node go on", name)
		}
	}
}
