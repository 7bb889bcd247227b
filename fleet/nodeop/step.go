package nodeop

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

// Times of a NodeOp.
const (
	pollBusy = 30 * time.Second
	// preflightGrace is how long a preflight's pod may take beyond its own deadline, which begins with the kubelet.
	preflightGrace   = 2 * time.Minute
	preflightSeconds = 120 // where the preflight says none
	// RestartTimeout is how long a node may take from the end of its command until it is Ready in another boot.
	RestartTimeout = time.Hour
	restartTries   = 3
)

// step is one decision about one node.
type step struct {
	now  time.Time
	op   *v1alpha1.NodeOp
	node rollout.Node
	r    v1alpha1.NodeRecord
}

// begin is a node's first step.
func (s step) begin() Act {
	if s.op.Spec.Preflight != nil {
		return s.to(v1alpha1.StepPreflight, "")
	}
	return s.main()
}

// main is the first step behind the preflight. Who only cordons has done so by the write that goes on.
func (s step) main() Act {
	a := s.to(v1alpha1.StepStarting, "")
	if drains(s.op.Spec) {
		a = s.to(v1alpha1.StepCordoning, "")
	}
	a.Cordon = ptr.Deref(s.op.Spec.Cordon, false)
	return a
}

func (s step) preflight(p *Preflight, hold bool) Act {
	deadline := PreflightDeadline(s.op.Spec)
	late := deadline + preflightGrace - s.elapsed()
	switch {
	case p != nil && p.Ended && p.Failed != "":
		return s.fail("preflight failed: %s", p.Failed)
	case p != nil && p.Ended && p.Skip != "":
		return s.to(v1alpha1.StepSkipped, "skipped by preflight: %s", p.Skip)
	case p != nil && p.Ended && hold, p == nil && hold:
		a := act(s.node)
		a.Forget = true
		return a
	case p != nil && p.Ended:
		return s.main()
	case late < 0 && p != nil && p.Waiting != "":
		return s.fail("preflight did not end within %s: its pod waits: %s", deadline, p.Waiting)
	case late < 0:
		return s.fail("preflight did not end within %s%s", deadline, s.notReady())
	}
	a := s.wait(late + time.Second)
	a.Preflight = true
	return a
}

// starting goes on when the Job has been seen: from then on none is made.
func (s step) starting(j *Job) Act {
	if j != nil {
		s.r.Job = j.Name
		return s.to(v1alpha1.StepRunning, "")
	}
	a := s.wait(time.Minute)
	a.Job = true
	return a
}

func (s step) running(j *Job) Act {
	switch {
	case j == nil:
		return s.fail("its Job is gone: whether the command has run is not known")
	case j.Failed != "":
		return s.fail("its Job failed: %s", j.Failed)
	case j.Complete && ptr.Deref(s.op.Spec.RebootOnSuccess, false):
		s.r.BootID = s.node.BootID
		return s.to(v1alpha1.StepRestarting, "")
	case j.Complete:
		return s.to(v1alpha1.StepCompleted, "")
	case j.Waiting == "":
		return act(s.node) // a command takes as long as it takes
	}
	waited := max(0, s.now.Sub(j.Since))
	if waited <= rollout.PullTimeout {
		return s.wait(rollout.PullTimeout - waited + time.Second)
	}
	a := s.fail("the command did not begin within %s: %s", rollout.PullTimeout, j.Waiting)
	a.RemoveJob = true
	return a
}

// restarting believes the node: its boot ID, and that it is Ready.
func (s step) restarting(h *rollout.Helper) Act {
	left := RestartTimeout - s.elapsed()
	switch {
	case s.node.BootID != s.r.BootID && s.node.Ready:
		return s.to(v1alpha1.StepCompleted, "")
	case left < 0 && s.node.BootID == s.r.BootID:
		return s.fail("the node did not restart within %s%s", RestartTimeout, s.notReady())
	case left < 0:
		return s.fail("the node was not Ready again within %s", RestartTimeout)
	case s.node.BootID != s.r.BootID:
		return s.wait(left + time.Second)
	case h == nil || !h.Ended:
		a := s.wait(left + time.Second)
		a.Helper = &rollout.Order{ID: rollout.HelperID(s.r), Step: s.r.Step, Reboot: s.r.BootID,
			Deadline: RestartTimeout}
		if h != nil && h.Waiting != "" && s.elapsed() > rollout.PullTimeout {
			return s.fail("the pod that restarts the node did not begin within %s: %s", rollout.PullTimeout, h.Waiting)
		}
		return a
	case h.Report != nil && h.Report.Exit != 0:
		return s.again("restart: " + h.Report.Reason)
	case s.elapsed() > 5*time.Minute && s.node.Ready:
		return s.again("the pod that restarts the node has ended, and the node did not restart")
	}
	return s.wait(time.Minute)
}

func (s step) again(why string) Act {
	if s.r.Attempt >= restartTries {
		return s.fail("%s", why)
	}
	wait := rollout.Repeat(&s.r, s.now, why)
	s.r.Since = metav1.NewTime(s.now) // each try has its time
	a := s.write()
	a.After = wait
	return a
}

func (s step) fail(format string, args ...any) Act { return s.to(v1alpha1.StepFailed, format, args...) }

// to is the next step. A node that has ended well is uncordoned by the write that says so, one that has not where it
// is to be.
func (s step) to(next v1alpha1.Step, format string, args ...any) Act {
	s.r.Step, s.r.Since, s.r.NotBefore, s.r.Attempt = next, metav1.NewTime(s.now), nil, 0
	s.r.Reason = v1alpha1.Bounded(fmt.Sprintf(format, args...), v1alpha1.MaxReason)
	a := s.write()
	switch next {
	case v1alpha1.StepCompleted, v1alpha1.StepSkipped:
		a.Uncordon = true
	case v1alpha1.StepFailed:
		a.Uncordon = ptr.Deref(s.op.Spec.UncordonOnFailure, false)
	}
	a.Uncordon = a.Uncordon && s.node.Cordoned && s.node.CordonedBy == rollout.Key(s.op)
	return a
}

func (s step) write() Act {
	a := act(s.node)
	a.Record = &s.r
	return a
}

func (s step) wait(d time.Duration) Act {
	a := act(s.node)
	a.After = max(time.Second, d)
	return a
}

func (s step) elapsed() time.Duration { return rollout.Elapsed(s.r, s.now) }

func (s step) notReady() string {
	if s.node.Ready {
		return ""
	}
	return ": the node is not Ready"
}

// PreflightDeadline is how long a preflight may take.
func PreflightDeadline(s v1alpha1.NodeOpSpec) time.Duration {
	seconds := int32(preflightSeconds)
	if s.Preflight != nil && s.Preflight.ActiveDeadlineSeconds != nil && *s.Preflight.ActiveDeadlineSeconds > 0 {
		seconds = *s.Preflight.ActiveDeadlineSeconds
	}
	return time.Duration(seconds) * time.Second
}

// drains says whether pods are evicted: drain options alone are not enough, as in the Kairos project.
func drains(s v1alpha1.NodeOpSpec) bool {
	return ptr.Deref(s.Cordon, false) && s.DrainOptions != nil && ptr.Deref(s.DrainOptions.Enabled, false)
}
