package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// status is what the rollout's status is once what was decided is done.
func (p *plan) status(d *Decision, wave int32, done *metav1.Time, stopped string) {
	u, s := p.Upgrade, &d.Status
	s.Target, s.ObservedGeneration, s.Wave, s.WaveDone, s.Stopped = p.target, u.Generation, wave, done, stopped
	s.Release, s.Version, s.Digest = p.pin.release, p.pin.version, p.pin.digest
	c := v1alpha1.NodeCounts{Total: int32(p.total)}
	all := map[string]v1alpha1.NodeStatus{}
	for i, n := range p.Nodes {
		r, ok := p.records[i]
		if !ok || r.Target != p.target {
			switch {
			case ok:
				c.Working++
			case !n.Ready:
				c.Away++
			default:
				c.Waiting++
			}
			continue
		}
		switch r.Step {
		case v1alpha1.StepBlessed:
			c.Blessed++
		case v1alpha1.StepFellBack:
			c.FellBack++
		case v1alpha1.StepFailed:
			c.Failed++
		case v1alpha1.StepRolledBack:
			c.RolledBack++
		case v1alpha1.StepStaged:
			if stopped != "" && !r.Undo {
				c.Waiting++ // for a turn that does not come: nothing of it holds the end up
			} else {
				c.Working++
			}
		default:
			c.Working++
		}
		good := r.Step == v1alpha1.StepBlessed || r.Step == v1alpha1.StepRolledBack
		if p.total <= v1alpha1.MaxNodeStatuses || !good {
			all[n.Name] = nodeStatus(r)
		}
	}
	Few(all)
	s.Nodes, s.NodeStatuses, s.Progress = c, all, progress(c)
	p.phase(d, c, stopped)
	p.conditions(s, c)
}

func (p *plan) phase(d *Decision, c v1alpha1.NodeCounts, stopped string) {
	u, s := p.Upgrade, &d.Status
	left := c.Waiting
	if u.Spec.Away != v1alpha1.AwaySkip {
		left += c.Away
	}
	bad := c.FellBack + c.Failed
	undoing := false
	undo := p.undo()
	for _, r := range p.records {
		undoing = undoing || r.Step == v1alpha1.StepBlessed && r.Release != r.From && undo(r)
	}
	switch {
	case c.Working > 0 || undoing:
		s.Phase, s.Message = v1alpha1.PhaseRunning, "nodes are in work"
		if stopped != "" {
			s.Message = "no further node is begun with: " + stopped
		}
	case u.Spec.Rollback:
		s.Phase, s.Message = v1alpha1.PhaseFailed, "rolled back"
	case stopped != "":
		s.Phase, s.Message = v1alpha1.PhaseFailed, "stopped: "+stopped
	case c.Total == 0:
		s.Phase, s.Message = v1alpha1.PhasePending, "no node has the labels of nodeSelector"
	case left == 0 && bad > 0:
		s.Phase, s.Message = v1alpha1.PhaseFailed, fmt.Sprintf("%d of %d nodes do not run the release", bad, c.Total)
	case left == 0:
		s.Phase, s.Message = v1alpha1.PhaseCompleted, "all nodes run the release, and have proved it healthy"
		if c.Away > 0 {
			s.Message = fmt.Sprintf("all nodes that are there run the release; %d are away", c.Away)
		}
	case c.Waiting == 0:
		s.Phase, s.Message = v1alpha1.PhaseRunning, fmt.Sprintf("waits for %d nodes that are not Ready", c.Away)
	default:
		s.Phase, s.Message = v1alpha1.PhaseRunning, "nodes wait for their turn"
		for _, i := range p.rest {
			if by := p.busy[i]; by != "" {
				s.Message = fmt.Sprintf("waits for node %s, which %s has", p.Nodes[i].Name, by)
				break
			}
		}
		if len(p.records) == 0 {
			s.Phase = v1alpha1.PhasePending
		}
	}
	over := s.Phase == v1alpha1.PhaseCompleted || s.Phase == v1alpha1.PhaseFailed
	if u.Spec.Paused && !over {
		s.Message = "paused: " + s.Message
	}
	if len(p.notes) > 0 && !over {
		s.Message += "; " + strings.Join(p.notes, "; ")
	}
	s.Message = v1alpha1.Bounded(s.Message, v1alpha1.MaxReason)
	d.Over = over
}

func (p *plan) conditions(s *v1alpha1.NodeOpUpgradeStatus, c v1alpha1.NodeCounts) {
	set := func(kind string, is bool, reason string) {
		SetCondition(&s.Conditions, metav1.Condition{
			Type: kind, Reason: reason, Message: s.Progress, ObservedGeneration: s.ObservedGeneration,
			LastTransitionTime: metav1.NewTime(p.Now),
		}, is)
	}
	set(v1alpha1.ConditionProgressing, s.Phase == v1alpha1.PhaseRunning && !p.Upgrade.Spec.Paused, s.Phase)
	set(v1alpha1.ConditionComplete, s.Phase == v1alpha1.PhaseCompleted, s.Phase)
	reason := "NodesAreWell"
	if c.FellBack > 0 {
		reason = string(v1alpha1.StepFellBack)
	} else if c.Failed > 0 {
		reason = string(v1alpha1.StepFailed)
	}
	set(v1alpha1.ConditionDegraded, c.FellBack+c.Failed > 0, reason)
	reason = "NotPaused"
	if p.Upgrade.Spec.Paused {
		reason = "Paused"
	}
	set(v1alpha1.ConditionPaused, p.Upgrade.Spec.Paused, reason)
}

// Few leaves as many of the nodes' statuses as an object holds: of a fleet so many may have failed, or be in work.
func Few(all map[string]v1alpha1.NodeStatus) {
	names := slices.Sorted(maps.Keys(all))
	for _, name := range names[min(len(names), v1alpha1.MaxNodeStatuses):] {
		delete(all, name)
	}
}

// SetCondition sets a condition to whether it is so.
func SetCondition(all *[]metav1.Condition, c metav1.Condition, is bool) {
	c.Status = metav1.ConditionFalse
	if is {
		c.Status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(all, c)
}

// progress says numbers of nodes as people say them.
func progress(c v1alpha1.NodeCounts) string {
	out := fmt.Sprintf("%d/%d blessed", c.Blessed, c.Total)
	for _, n := range []struct {
		n    int32
		what string
	}{
		{c.FellBack, "fell back"}, {c.Failed, "failed"}, {c.RolledBack, "rolled back"}, {c.Working, "in work"},
		{c.Away, "away"},
	} {
		if n.n > 0 {
			out += fmt.Sprintf(", %d %s", n.n, n.what)
		}
	}
	return out
}

// nodeStatus is a record as the Kairos project's phases have it.
func nodeStatus(r v1alpha1.NodeRecord) v1alpha1.NodeStatus {
	out := v1alpha1.NodeStatus{
		Phase: v1alpha1.PhaseRunning, Step: r.Step, Message: r.Reason, LastUpdated: r.Since, Release: r.Release,
		From: r.From, Wave: r.Wave, RebootStatus: v1alpha1.RebootNotRequested,
	}
	switch r.Step {
	case v1alpha1.StepStaging, v1alpha1.StepStaged:
		out.Phase, out.RebootStatus = v1alpha1.PhasePending, v1alpha1.RebootPending
	case v1alpha1.StepCordoning, v1alpha1.StepRestarting:
		out.RebootStatus = v1alpha1.RebootPending
	case v1alpha1.StepTrial:
		out.RebootStatus = v1alpha1.RebootCompleted
	case v1alpha1.StepBlessed, v1alpha1.StepRolledBack:
		out.Phase = v1alpha1.PhaseCompleted
	case v1alpha1.StepFellBack:
		out.Phase = v1alpha1.PhaseFailed
	case v1alpha1.StepFailed:
		out.Phase, out.RebootStatus = v1alpha1.PhaseFailed, v1alpha1.RebootCancelled
	}
	if r.Step.Ended() && r.BootID != "" && r.Step != v1alpha1.StepFailed {
		out.RebootStatus = v1alpha1.RebootCompleted
	}
	return out
}
