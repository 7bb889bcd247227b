package nodeop

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

// Input is what is known when something is to be decided.
type Input struct {
	Now time.Time
	Op  *v1alpha1.NodeOp
	// Nodes are those that the spec's selector chooses, and those that the NodeOp has begun with.
	Nodes []rollout.Node
	// Busy says which other object has a node; "" is none. nil: none has one.
	Busy func(node rollout.Node) string
	// Preflight, Job and Helper return the node's pods and Job, as they are; nil where there is none. The Job is not
	// to be nil where it is there and has only not been seen yet.
	Preflight func(node string) *Preflight
	Job       func(node string) *Job
	// Helper is the pod that restarts the node, with this [rollout.HelperID].
	Helper func(node, id string) *rollout.Helper
}

// Preflight is a preflight's pod that is there.
type Preflight struct {
	Ended   bool
	Failed  string // why it has failed
	Skip    string // why there is nothing to do on the node
	Waiting string // why it does not run yet, where that is known
}

// Job is the Job of a node that is there.
type Job struct {
	Name     string
	Complete bool
	Failed   string // why it has failed for good
	// Waiting is why its pod does not run, where that is known, and Since when that pod was made.
	Waiting string
	Since   time.Time
}

// Decision is what is to be done.
type Decision struct {
	Acts   []Act // of nodes that have something to be done, in the nodes' order
	Status v1alpha1.NodeOpStatus
	// Over says that nothing is left to be done.
	Over bool
	// After is when to ask again, if nothing changes before. 0: no need to.
	After time.Duration
}

// Act is what is to be done with a node, beside what a rollout might do with it. Whatever is in it may be done again.
// What is to be removed goes before anything is written.
type Act struct {
	rollout.Act
	Preflight bool // the preflight's pod has to be there
	Job       bool // the Job has to be there
	RemoveJob bool // the Job has to go: its command never ran
	Forget    bool // the record has to go: the node has not begun
}

// Over says that a NodeOp has come to its end.
func Over(op *v1alpha1.NodeOp) bool {
	return op.Status.Phase == v1alpha1.PhaseCompleted || op.Status.Phase == v1alpha1.PhaseFailed
}

// Noted says that a NodeOp's status has a node's end, so that the record of it may go.
func Noted(op *v1alpha1.NodeOp, node string) bool {
	s, ok := op.Status.NodeStatuses[node]
	return ok && (s.Phase == v1alpha1.PhaseCompleted || s.Phase == v1alpha1.PhaseFailed)
}

// AfterDrain says what follows on a try to evict the pods of a node, which an [Act] has asked for.
func AfterDrain(now time.Time, op *v1alpha1.NodeOp, n rollout.Node, d rollout.Drain) Act {
	if n.Op == nil || n.Op.Rollout != rollout.Key(op) || n.Op.Step != v1alpha1.StepCordoning {
		return act(n)
	}
	s := step{now: now, op: op, node: n, r: *n.Op}
	switch drained, failure := d.Verdict(op.Spec.DrainOptions, rollout.Elapsed(s.r, now)); {
	case drained:
		return s.to(v1alpha1.StepStarting, "")
	case failure != "":
		return s.fail("%s", failure)
	}
	return s.wait(rollout.PollDrain)
}

// plan is one decision.
type plan struct {
	Input
	key     string
	records map[string]v1alpha1.NodeRecord // of nodes that the NodeOp has begun with
	noted   map[string]v1alpha1.NodeStatus // ends that only the status has
	busy    map[string]string
}

// Decide says what is to be done for a NodeOp, and what its status is then.
func Decide(in Input) Decision {
	op := in.Op
	if Over(op) {
		return Decision{Status: op.Status, Over: true}
	}
	p := &plan{Input: in, key: rollout.Key(op), records: map[string]v1alpha1.NodeRecord{},
		noted: map[string]v1alpha1.NodeStatus{}, busy: map[string]string{}}
	p.Nodes = append([]rollout.Node(nil), in.Nodes...)
	rollout.Sort(p.Nodes)
	working := 0
	for _, n := range p.Nodes {
		switch {
		case n.Op != nil && n.Op.Rollout == p.key:
			p.records[n.Name] = *n.Op
			if !n.Op.Step.Ended() {
				working++
			}
		case Noted(op, n.Name):
			p.noted[n.Name] = op.Status.NodeStatuses[n.Name]
		}
	}
	stopped := p.stopped()
	d := Decision{Status: *op.Status.DeepCopy()}
	for _, n := range p.Nodes {
		var a Act
		r, begun := p.records[n.Name]
		_, noted := p.noted[n.Name]
		switch {
		case begun:
			a = p.next(n, r, stopped != "")
		case noted || stopped != "" || !n.Ready || p.isBusy(n) ||
			op.Spec.Concurrency > 0 && working >= int(op.Spec.Concurrency):
			continue
		default:
			working++
			a = step{now: p.Now, op: op, node: n, r: v1alpha1.NodeRecord{Rollout: p.key}}.begin()
		}
		if a.Record != nil || a.Forget || a.Cordon || a.Drain || a.Helper != nil || a.Preflight || a.Job {
			d.Acts = append(d.Acts, a)
		}
		switch {
		case a.Record != nil:
			p.records[n.Name] = *a.Record
		case a.Forget:
			delete(p.records, n.Name)
		}
		d.After = rollout.Sooner(d.After, a.After)
	}
	if len(p.busy) > 0 {
		d.After = rollout.Sooner(d.After, pollBusy) // nothing of this NodeOp's changes when another object is over
	}
	p.status(&d, p.stopped())
	return d
}

// isBusy says whether another object has a node, and keeps that for the status.
func (p *plan) isBusy(n rollout.Node) bool {
	if p.Busy == nil {
		return false
	}
	by := p.Busy(n)
	if by != "" {
		p.busy[n.Name] = by
	}
	return by != ""
}

// stopped says why no further node is begun with.
func (p *plan) stopped() string {
	if !ptr.Deref(p.Op.Spec.StopOnFailure, false) {
		return ""
	}
	for _, n := range p.Nodes {
		if r, ok := p.records[n.Name]; ok && r.Step == v1alpha1.StepFailed {
			return fmt.Sprintf("node %s failed: %s", n.Name, r.Reason)
		}
		if s, ok := p.noted[n.Name]; ok && s.Phase == v1alpha1.PhaseFailed {
			return fmt.Sprintf("node %s failed: %s", n.Name, s.Message)
		}
	}
	return ""
}

// next lets a node that the NodeOp has begun with take its next step.
func (p *plan) next(n rollout.Node, r v1alpha1.NodeRecord, hold bool) Act {
	s := step{now: p.Now, op: p.Op, node: n, r: r}
	if rollout.Ahead(r, p.Now) {
		s.r.Since = metav1.NewTime(p.Now)
		return s.write()
	}
	if wait := rollout.Paused(r, p.Now); wait > 0 {
		return s.wait(wait)
	}
	switch r.Step {
	case v1alpha1.StepPreflight:
		return s.preflight(p.Preflight(n.Name), hold)
	case v1alpha1.StepCordoning:
		// A cordon that somebody took back meanwhile is set again: the drain would never end.
		a := s.wait(rollout.PollDrain)
		a.Cordon, a.Drain = !n.Cordoned, true
		return a
	case v1alpha1.StepStarting:
		return s.starting(p.Job(n.Name))
	case v1alpha1.StepRunning:
		return s.running(p.Job(n.Name))
	case v1alpha1.StepRestarting:
		return s.restarting(p.Helper(n.Name, rollout.HelperID(r)))
	}
	return act(n)
}

func act(n rollout.Node) Act { return Act{Act: rollout.Act{Node: n.Name}} }
