package nodeop

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

// status is what the NodeOp's status is once what was decided is done.
func (p *plan) status(d *Decision, stopped string) {
	s := &d.Status
	s.ObservedGeneration = p.Op.Generation
	c := v1alpha1.NodeOpCounts{Total: int32(len(p.Nodes))}
	all := map[string]v1alpha1.NodeStatus{}
	for _, n := range p.Nodes {
		r, begun := p.records[n.Name]
		at, noted := p.noted[n.Name]
		if begun {
			at = p.nodeStatus(n, r)
		}
		switch {
		case !begun && !noted && !n.Ready:
			c.Away++
			continue
		case !begun && !noted:
			c.Waiting++
			continue
		case at.Phase == v1alpha1.PhaseFailed:
			c.Failed++
		case at.Step == v1alpha1.StepSkipped:
			c.Skipped++
		case at.Phase == v1alpha1.PhaseCompleted:
			c.Completed++
		default:
			c.Working++
		}
		if len(p.Nodes) <= v1alpha1.MaxNodeStatuses || at.Phase != v1alpha1.PhaseCompleted {
			all[n.Name] = at
		}
	}
	rollout.Few(all)
	s.Nodes, s.NodeStatuses, s.Progress = c, all, progress(c)
	p.phase(d, c, stopped)
	p.conditions(s, c)
}

func (p *plan) phase(d *Decision, c v1alpha1.NodeOpCounts, stopped string) {
	s := &d.Status
	switch {
	case c.Working > 0:
		s.Phase, s.Message = v1alpha1.PhaseRunning, "nodes are in work"
		if stopped != "" {
			s.Message = "no further node is begun with: " + stopped
		}
	case stopped != "":
		s.Phase, s.Message = v1alpha1.PhaseFailed, "stopped: "+stopped
	case c.Total == 0:
		s.Phase, s.Message = v1alpha1.PhasePending, "no node has the labels of nodeSelector"
	case c.Waiting+c.Away == 0 && c.Failed > 0:
		s.Phase, s.Message = v1alpha1.PhaseFailed, fmt.Sprintf("%d of %d nodes failed", c.Failed, c.Total)
	case c.Waiting+c.Away == 0:
		s.Phase, s.Message = v1alpha1.PhaseCompleted, "all nodes are done"
	case c.Waiting == 0:
		s.Phase, s.Message = v1alpha1.PhaseRunning, fmt.Sprintf("waits for %d nodes that are not Ready", c.Away)
	default:
		s.Phase, s.Message = v1alpha1.PhaseRunning, "nodes wait for their turn"
		for _, n := range p.Nodes {
			if by := p.busy[n.Name]; by != "" {
				s.Message = fmt.Sprintf("waits for node %s, which %s has", n.Name, by)
				break
			}
		}
	}
	d.Over = Over(&v1alpha1.NodeOp{Status: *s})
	if c.Working+c.Completed+c.Skipped+c.Failed == 0 && !d.Over {
		s.Phase = v1alpha1.PhasePending
	}
	if o := p.Op.Spec.DrainOptions; o != nil && ptr.Deref(o.Enabled, false) && !ptr.Deref(p.Op.Spec.Cordon, false) {
		s.Message += "; no pod is evicted: drainOptions take cordon"
	}
	s.Message = v1alpha1.Bounded(s.Message, v1alpha1.MaxReason)
}

func (p *plan) conditions(s *v1alpha1.NodeOpStatus, c v1alpha1.NodeOpCounts) {
	set := func(kind string, is bool, reason string) {
		rollout.SetCondition(&s.Conditions, metav1.Condition{
			Type: kind, Reason: reason, Message: s.Progress, ObservedGeneration: s.ObservedGeneration,
			LastTransitionTime: metav1.NewTime(p.Now),
		}, is)
	}
	set(v1alpha1.ConditionProgressing, s.Phase == v1alpha1.PhaseRunning, s.Phase)
	set(v1alpha1.ConditionComplete, s.Phase == v1alpha1.PhaseCompleted, s.Phase)
	reason := "NodesAreWell"
	if c.Failed > 0 {
		reason = string(v1alpha1.StepFailed)
	}
	set(v1alpha1.ConditionDegraded, c.Failed > 0, reason)
}

// progress says numbers of nodes as people say them.
func progress(c v1alpha1.NodeOpCounts) string {
	out := fmt.Sprintf("%d/%d done", c.Completed+c.Skipped, c.Total)
	for _, n := range []struct {
		n    int32
		what string
	}{{c.Failed, "failed"}, {c.Skipped, "skipped"}, {c.Working, "in work"}, {c.Away, "away"}} {
		if n.n > 0 {
			out += fmt.Sprintf(", %d %s", n.n, n.what)
		}
	}
	return out
}

// nodeStatus is a record as the Kairos project's phases have it.
func (p *plan) nodeStatus(n rollout.Node, r v1alpha1.NodeRecord) v1alpha1.NodeStatus {
	out := v1alpha1.NodeStatus{
		Phase: v1alpha1.PhaseRunning, Step: r.Step, JobName: r.Job, Message: r.Reason, LastUpdated: r.Since,
		BootID: r.BootID, RebootStatus: v1alpha1.RebootNotRequested,
	}
	reboots := ptr.Deref(p.Op.Spec.RebootOnSuccess, false)
	if reboots {
		out.RebootStatus = v1alpha1.RebootPending
	}
	switch r.Step {
	case v1alpha1.StepPreflight:
		out.Phase, out.RebootStatus = v1alpha1.PhasePreflight, v1alpha1.RebootNotRequested
	case v1alpha1.StepCordoning, v1alpha1.StepStarting:
		out.Phase = v1alpha1.PhasePending
	case v1alpha1.StepRunning:
		if j := p.Job(n.Name); j != nil && j.Waiting != "" {
			out.Message = "its pod waits: " + j.Waiting
		}
		if !n.Ready {
			out.Message = "the node is not Ready"
		}
	case v1alpha1.StepSkipped:
		out.Phase, out.RebootStatus = v1alpha1.PhaseCompleted, v1alpha1.RebootNotRequested
	case v1alpha1.StepCompleted:
		out.Phase = v1alpha1.PhaseCompleted
		if r.BootID != "" {
			out.RebootStatus = v1alpha1.RebootCompleted
		} else {
			out.RebootStatus = v1alpha1.RebootNotRequested
		}
	case v1alpha1.StepFailed:
		out.Phase = v1alpha1.PhaseFailed
		if reboots && r.BootID == "" {
			out.RebootStatus = v1alpha1.RebootCancelled
		}
	}
	return out
}
