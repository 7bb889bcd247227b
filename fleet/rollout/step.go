package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// HelperID names a helper pod on a node: that of this attempt at this step, and no other.
func HelperID(r v1alpha1.NodeRecord) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %d %v", r.Rollout, r.Target, r.Step, r.Attempt, r.Undo))
	return hex.EncodeToString(sum[:5])
}

// Helper is a helper pod that is there.
type Helper struct {
	// Ended says that the pod has ended, and Report is its answer; nil where it has left none: it was
	// killed, or the node restarted.
	Ended  bool
	Report *v1alpha1.HelperReport
	// Waiting is why it does not run yet, where that is known: an image that cannot be pulled.
	Waiting string
}

// Act is what is to be done with a node. Whatever is in it may be done again.
type Act struct {
	Node string
	// Record is to be written to the node, and with it, in one write, Cordon or Uncordon. nil: it stays as it is.
	Record   *v1alpha1.NodeRecord
	Cordon   bool
	Uncordon bool
	// Drain: evict the node's pods, and tell [AfterDrain] what is left.
	Drain bool
	// Helper is the pod that has to be there, with these arguments of kairos-apply.
	Helper *Order
	// After is when to ask again, if nothing changes before. 0: no need to.
	After time.Duration
}

// Order is a helper pod that has to be there.
type Order struct {
	ID   string // [HelperID]
	Step v1alpha1.Step
	Args []string // of kairos-apply; nil where Reboot is set
	// Reboot is the boot that the pod is to end, and nothing else: it does nothing in another boot.
	Reboot string
	// Deadline is how long it may run.
	Deadline time.Duration
}

// Drain is what is left of a node's pods.
type Drain struct {
	Left []string // namespace/name of pods that are not gone, with why
	Err  error    // a pod forbids it for good: it has no controller, or data that would be lost
}

// Verdict says what follows from what is left of a node's pods after that time of evicting them: that it is drained,
// or why it will not be. Without both there is time left.
func (d Drain) Verdict(o *v1alpha1.DrainOptions, elapsed time.Duration) (drained bool, failure string) {
	timeout := drainTimeout
	if o != nil && o.TimeoutSeconds != nil && *o.TimeoutSeconds > 0 {
		timeout = time.Duration(*o.TimeoutSeconds) * time.Second
	}
	switch {
	case d.Err == nil && len(d.Left) == 0:
		return true, ""
	case elapsed <= timeout:
		return false, ""
	case d.Err != nil:
		return false, fmt.Sprintf("the node cannot be drained: %v", d.Err)
	}
	return false, fmt.Sprintf("pods were not evicted within %s: %s", timeout, strings.Join(d.Left, ", "))
}

// Times of a rollout and of a NodeOp.
const (
	// PollDrain is how soon pods are looked at again that have to go.
	PollDrain    = 5 * time.Second
	pollBusy     = time.Minute
	drainTimeout = 15 * time.Minute // where drainOptions say none
	stageTimeout = time.Hour
	trialTimeout = time.Hour
	// PullTimeout is how long the kubelet may take to pull a pod's image, where it says that it cannot.
	PullTimeout  = 10 * time.Minute
	firstBackoff = 10 * time.Second
	lastBackoff  = 5 * time.Minute
	defaultTries = 3
)

// step is one decision about one node.
type step struct {
	now  time.Time
	u    *v1alpha1.NodeOpUpgrade
	node Node
	r    v1alpha1.NodeRecord
	pin  pin
}

// next says what is to be done with a node that the rollout has begun with.
func (s step) next(h *Helper, turn bool) Act {
	if wait := Paused(s.r, s.now); wait > 0 {
		return Act{Node: s.node.Name, After: wait}
	}
	if h != nil && !h.Ended && h.Waiting != "" && s.elapsed() > PullTimeout {
		return s.fail("the helper pod did not begin within %s: %s", PullTimeout, h.Waiting)
	}
	switch s.r.Step {
	case v1alpha1.StepStaging:
		return s.staging(h)
	case v1alpha1.StepStaged:
		return s.staged(turn)
	case v1alpha1.StepCordoning:
		// A cordon that somebody took back meanwhile is set again: the drain would never end.
		return Act{Node: s.node.Name, Cordon: !s.node.Cordoned, Drain: true, After: PollDrain}
	case v1alpha1.StepRestarting:
		return s.restarting(h)
	case v1alpha1.StepTrial:
		return s.trial()
	case v1alpha1.StepRecovery:
		return s.recovery(h)
	case v1alpha1.StepFailed:
		if s.late() {
			return s.blessed()
		}
	}
	return Act{Node: s.node.Name}
}

func (s step) staging(h *Helper) Act {
	timeout := orElse(s.u.Spec.StageTimeout, stageTimeout)
	switch {
	case s.elapsed() > timeout:
		return s.fail("the release was not fetched within %s%s", timeout, waiting(h, s.node))
	case h == nil || !h.Ended:
		return s.order(timeout, s.upgrade("--stage")...)
	case h.Report == nil:
		return s.again("the helper pod left no answer")
	}
	a := *h.Report
	if a.Release != "" {
		s.r.Release, s.r.Version, s.r.Digest = a.Release, a.Version, a.Digest
	}
	if reason, failed := s.node.failure(s.r.Release); failed && !ptr.Deref(s.u.Spec.Force, false) {
		return s.to(v1alpha1.StepFellBack,
			"the release has failed on this node before, and is not tried again: %s", reason)
	}
	if a.Exit != int(api.ExitDone) {
		return s.answered(a)
	}
	switch wrong := s.pin.refuses(a); {
	case wrong != "":
		return s.fail("%s", wrong)
	case s.node.runs(s.r.Release):
		return s.blessed()
	}
	return s.to(v1alpha1.StepStaged, "")
}

func (s step) staged(turn bool) Act {
	switch wrong := s.pin.refuses(v1alpha1.HelperReport{Release: s.r.Release}); {
	case wrong != "" && !s.r.Undo:
		return s.fail("%s", wrong)
	case !turn:
		return Act{Node: s.node.Name}
	}
	s.r.BootID = s.node.BootID
	a := s.to(v1alpha1.StepCordoning, "")
	a.Cordon = true
	return a
}

// afterDrain says what follows on a try to evict the node's pods.
func (s step) afterDrain(d Drain) Act {
	switch drained, failure := d.Verdict(s.u.Spec.DrainOptions, s.elapsed()); {
	case drained:
		s.r.BootID = s.node.BootID
		return s.to(v1alpha1.StepRestarting, "")
	case failure != "":
		return s.fail("%s", failure)
	}
	return Act{Node: s.node.Name, After: PollDrain}
}

func (s step) restarting(h *Helper) Act {
	timeout := orElse(s.u.Spec.TrialTimeout, trialTimeout)
	switch {
	case s.node.BootID != s.r.BootID:
		return s.to(v1alpha1.StepTrial, "")
	case s.elapsed() > timeout:
		return s.fail("the node did not restart within %s%s", timeout, waiting(h, s.node))
	case h == nil || !h.Ended:
		args := s.upgrade("--reboot")
		if s.r.Undo {
			args = []string{"rollback", s.r.From, "--reboot", "-o", "json"}
		}
		return s.order(timeout, args...)
	case h.Report == nil && s.node.Ready && s.elapsed() > time.Minute:
		return s.again("the helper pod left no answer, and the node did not restart")
	case h.Report == nil:
		return Act{Node: s.node.Name, After: time.Minute}
	case h.Report.Exit != int(api.ExitDone):
		return s.answered(*h.Report)
	case !h.Report.Changed && s.node.booted() == s.goal():
		return s.to(v1alpha1.StepTrial, "") // it runs already
	}
	return Act{Node: s.node.Name, After: min(timeout-s.elapsed(), time.Minute)}
}

// trial believes the node, and nobody else.
func (s step) trial() Act {
	timeout := orElse(s.u.Spec.TrialTimeout, trialTimeout)
	wait := Act{Node: s.node.Name, After: max(time.Second, min(timeout-s.elapsed(), time.Minute))}
	reason, failed := s.node.failure(s.goal())
	switch {
	case s.node.Ready && s.node.runs(s.goal()):
		return s.blessed()
	case s.elapsed() > timeout:
		return s.fail("the release was not blessed within %s%s", timeout, waiting(nil, s.node))
	case s.node.Report == nil || s.node.booted() == s.goal():
		return wait
	case failed:
		return s.to(v1alpha1.StepFellBack, "%s", reason)
	case s.node.Report.Active != nil && s.node.Report.Active.Release == s.goal():
		return wait // somebody has started another release once; this one is still the next
	case s.node.booted() == s.start() && s.r.Attempt < ptr.Deref(s.u.Spec.BackoffLimit, defaultTries):
		// The node restarted by itself before the release was activated.
		s.r.Step, s.r.BootID, s.r.Since = v1alpha1.StepRestarting, s.node.BootID, metav1.NewTime(s.now)
		return s.again("the node restarted before the release was activated")
	}
	return s.to(v1alpha1.StepFellBack, "release %s runs", s.node.booted())
}

func (s step) recovery(h *Helper) Act {
	timeout := orElse(s.u.Spec.StageTimeout, stageTimeout)
	switch {
	case s.elapsed() > timeout:
		return s.fail("the recovery system was not upgraded within %s%s", timeout, waiting(h, s.node))
	case h == nil || !h.Ended:
		// Its trial would be one more restart of a node that has its work back.
		return s.order(timeout, s.upgrade("--recovery", "--no-trial")...)
	case h.Report == nil:
		return s.again("the helper pod left no answer")
	case h.Report.Exit != int(api.ExitDone):
		return s.answered(*h.Report)
	}
	if s.r.Release == "" {
		s.r.Release, s.r.Version = h.Report.Release, h.Report.Version
	}
	if wrong := s.pin.refuses(*h.Report); wrong != "" {
		return s.fail("%s", wrong)
	}
	return s.to(v1alpha1.StepBlessed, "")
}

// upgrade are the arguments of kairos-apply for the rollout's image.
func (s step) upgrade(more ...string) []string {
	args := []string{"upgrade", s.r.Image, "-o", "json"}
	if s.r.Release != "" || s.pin.release != "" {
		expected := s.r.Release
		if expected == "" {
			expected = s.pin.release
		}
		args = append(args, "--release", expected)
	}
	if !ptr.Deref(s.u.Spec.Force, false) && more[0] != "--recovery" {
		args = append(args, "--unless-failed")
	}
	return append(args, more...)
}

// goal is the release that the node is to run.
func (s step) goal() string {
	if s.r.Undo {
		return s.r.From
	}
	return s.r.Release
}

// start is the release that the node ran before it.
func (s step) start() string {
	if s.r.Undo {
		return s.r.Release
	}
	return s.r.From
}

// blessed is what follows when the node runs what it is to run.
func (s step) blessed() Act {
	switch {
	case s.r.Undo:
		return s.to(v1alpha1.StepRolledBack, "")
	case ptr.Deref(s.u.Spec.UpgradeRecovery, false):
		return s.to(v1alpha1.StepRecovery, "")
	}
	return s.to(v1alpha1.StepBlessed, "")
}

// late says that a node that was given up has proved the release to be healthy after all.
func (s step) late() bool {
	return s.r.BootID != "" && s.node.BootID != s.r.BootID && s.node.Ready && s.r.Release != "" &&
		s.node.runs(s.goal())
}

// answered is what follows when kairos-apply has failed, or refuses.
func (s step) answered(a v1alpha1.HelperReport) Act {
	reason := a.Reason
	if reason == "" {
		reason = api.ExitCode(a.Exit).String()
	}
	switch api.ExitCode(a.Exit) {
	case api.ExitRefused, api.ExitUsage, api.ExitNoNode:
		return s.fail("%s", reason) // the answer would be the same
	}
	return s.again("%s", reason)
}

// again repeats a step after a pause, as often as the spec has it.
func (s step) again(format string, args ...any) Act {
	if s.r.Attempt >= ptr.Deref(s.u.Spec.BackoffLimit, defaultTries) {
		return s.fail(format, args...)
	}
	wait := Repeat(&s.r, s.now, fmt.Sprintf(format, args...))
	return Act{Node: s.node.Name, Record: &s.r, After: wait}
}

// Repeat notes in a record that its step has failed, why, and when it is tried again: after pauses that grow from ten
// seconds to five minutes.
func Repeat(r *v1alpha1.NodeRecord, now time.Time, why string) (wait time.Duration) {
	wait = min(firstBackoff<<min(r.Attempt, 10), lastBackoff)
	at := metav1.NewTime(now.Add(wait))
	r.Attempt++
	r.NotBefore, r.Reason = &at, v1alpha1.Bounded(why, v1alpha1.MaxReason)
	return wait
}

// Paused is how long a record's step has to wait until it is tried again; 0: no longer. What is longer than the
// longest pause was written by another clock.
func Paused(r v1alpha1.NodeRecord, now time.Time) time.Duration {
	if r.NotBefore == nil || !now.Before(r.NotBefore.Time) {
		return 0
	}
	if wait := r.NotBefore.Sub(now); wait <= lastBackoff {
		return wait
	}
	return 0
}

func (s step) fail(format string, args ...any) Act { return s.to(v1alpha1.StepFailed, format, args...) }

// to is the next step. A node that has ended well is uncordoned by the write that says so, one that has not where it
// is to be.
func (s step) to(next v1alpha1.Step, format string, args ...any) Act {
	if next != v1alpha1.StepTrial { // which may lead back to where it came from
		s.r.Attempt = 0
	}
	s.r.Step, s.r.Since, s.r.NotBefore = next, metav1.NewTime(s.now), nil
	s.r.Reason = v1alpha1.Bounded(fmt.Sprintf(format, args...), v1alpha1.MaxReason)
	a := Act{Node: s.node.Name, Record: &s.r}
	switch next {
	case v1alpha1.StepBlessed, v1alpha1.StepRolledBack, v1alpha1.StepRecovery:
		a.Uncordon = true
	case v1alpha1.StepFellBack, v1alpha1.StepFailed:
		a.Uncordon = ptr.Deref(s.u.Spec.UncordonOnFailure, false)
	}
	a.Uncordon = a.Uncordon && s.node.Cordoned && s.node.CordonedBy == Key(s.u)
	return a
}

func (s step) order(timeout time.Duration, args ...string) Act {
	return Act{
		Node:   s.node.Name,
		Helper: &Order{ID: HelperID(s.r), Step: s.r.Step, Args: args, Deadline: timeout},
		After:  max(time.Second, timeout-s.elapsed()+time.Second),
	}
}

func (s step) elapsed() time.Duration { return Elapsed(s.r, s.now) }

// Elapsed is how long a record's step has taken. A time in the future is that of another clock, and counts from now
// on.
func Elapsed(r v1alpha1.NodeRecord, now time.Time) time.Duration {
	return max(0, now.Sub(r.Since.Time))
}

func waiting(h *Helper, n Node) string {
	switch {
	case !n.Ready:
		return ": the node is not Ready"
	case h != nil && h.Waiting != "":
		return ": the helper pod waits: " + h.Waiting
	case n.Problem != "":
		return ": " + n.Problem
	case n.Report == nil:
		return ": the node does not report"
	}
	return ""
}

// Ahead says that a record was written by an operator whose clock is ahead of this one's: each timeout would be as
// much longer.
func Ahead(r v1alpha1.NodeRecord, now time.Time) bool { return r.Since.After(now.Add(time.Minute)) }

func orElse(p *metav1.Duration, otherwise time.Duration) time.Duration {
	if p == nil || p.Duration <= 0 {
		return otherwise
	}
	return p.Duration
}
