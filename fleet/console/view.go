// Package console is how a person looks at a fleet's rollouts and gives orders: what `kairos-operator fleet` and
// `kubectl kairos` print and write.
package console

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

// Rollout is a NodeOpUpgrade as people and programs read it.
type Rollout struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Image     string `json:"image"`
	Release   string `json:"release,omitempty"` // id, as far as a node has found it
	Version   string `json:"version,omitempty"`
	// Phase is Pending, Running, Completed or Failed. Outcome is the exit code that it stands for.
	Phase    string              `json:"phase"`
	Outcome  api.ExitCode        `json:"outcome"`
	Paused   bool                `json:"paused,omitempty"`
	Rollback bool                `json:"rollback,omitempty"`
	Wave     int32               `json:"wave,omitempty"`
	Progress string              `json:"progress,omitempty"`
	Message  string              `json:"message,omitempty"`
	Counts   v1alpha1.NodeCounts `json:"counts"`
	// Nodes are those that the rollout is for, those that need a person first.
	Nodes []Node `json:"nodes,omitempty"`
}

// Node is a node in a rollout.
type Node struct {
	Name string        `json:"name"`
	Wave int32         `json:"wave,omitempty"`
	Step v1alpha1.Step `json:"step,omitempty"` // empty: not begun
	// Since is when the step began.
	Since *metav1.Time `json:"since,omitempty"`
	// Release and Version are what the node runs by its last report, and Role how; Blessed says that it is healthy.
	Release string `json:"release,omitempty"`
	Version string `json:"version,omitempty"`
	Role    string `json:"role,omitempty"`
	Blessed bool   `json:"blessed,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// Look reads a rollout and its nodes. Of Nodes it asks for their metadata alone: a fleet's whole objects are many
// megabytes.
func Look(ctx context.Context, c client.Reader, key client.ObjectKey) (Rollout, error) {
	var u v1alpha1.NodeOpUpgrade
	if err := c.Get(ctx, key, &u); err != nil {
		return Rollout{}, err
	}
	r := rolloutOf(&u)
	selector, err := rollout.Selector(u.Spec.NodeSelector)
	if err != nil {
		return r, fmt.Errorf("spec.nodeSelector of %s: %w", key, err)
	}
	list := metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(nodeList)
	if err := c.List(ctx, &list); err != nil {
		return r, err
	}
	for i := range list.Items {
		if n, ok := nodeOf(&u, &list.Items[i].ObjectMeta, selector); ok {
			r.Nodes = append(r.Nodes, n)
		}
	}
	slices.SortFunc(r.Nodes, func(a, b Node) int {
		if d := urgency(a.Step) - urgency(b.Step); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	return r, nil
}

// List reads all rollouts of a namespace, without their nodes; all of a cluster where it is empty.
func List(ctx context.Context, c client.Reader, namespace string) ([]Rollout, error) {
	var list v1alpha1.NodeOpUpgradeList
	if err := c.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	out := []Rollout{}
	for i := range list.Items {
		out = append(out, rolloutOf(&list.Items[i]))
	}
	return out, nil
}

func rolloutOf(u *v1alpha1.NodeOpUpgrade) Rollout {
	s := u.Status
	r := Rollout{
		Namespace: u.Namespace, Name: u.Name, Image: u.Spec.Image, Release: s.Release, Version: s.Version,
		Phase: s.Phase, Paused: u.Spec.Paused, Rollback: u.Spec.Rollback, Wave: s.Wave, Progress: s.Progress,
		Message: s.Message, Counts: s.Nodes, Outcome: outcome(u),
	}
	if !rollout.Over(u) && s.ObservedGeneration != u.Generation { // what the operator has said is of another spec
		r.Phase, r.Message = v1alpha1.PhasePending, "the operator has not looked at it yet"
	}
	return r
}

// outcome is what a rollout has come to: [api.ExitUpgrade] while it is not over.
func outcome(u *v1alpha1.NodeOpUpgrade) api.ExitCode {
	s := u.Status
	switch {
	case !rollout.Over(u):
		return api.ExitUpgrade
	case s.Phase == v1alpha1.PhaseCompleted:
		return api.ExitDone
	case s.Nodes.Failed > 0:
		return api.ExitFailed
	case s.Nodes.FellBack > 0:
		return api.ExitFellBack
	case u.Spec.Rollback:
		return api.ExitDone // it was told to
	}
	return api.ExitFailed
}

func nodeOf(u *v1alpha1.NodeOpUpgrade, m *metav1.ObjectMeta, s labels.Selector) (n Node, ok bool) {
	n.Name = m.Name
	if r, err := v1alpha1.ParseRecord(m.Annotations); err == nil && r != nil && r.Rollout == rollout.Key(u) {
		n.Wave, n.Step, n.Since, n.Reason, ok = r.Wave, r.Step, &r.Since, r.Reason, true
	}
	if !ok && !s.Matches(labels.Set(m.Labels)) {
		return n, false
	}
	report, err := v1alpha1.ParseReport(m.Annotations)
	switch {
	case err != nil && n.Reason == "":
		n.Reason = err.Error()
	case report != nil && report.Booted != nil:
		b := report.Booted
		n.Release, n.Version, n.Role, n.Blessed = b.Release, b.Version, report.Role, b.Blessed
	}
	return n, true
}

// urgency is lower for what a person looks for.
func urgency(s v1alpha1.Step) int {
	switch s {
	case v1alpha1.StepFellBack, v1alpha1.StepFailed:
		return 0
	case "":
		return 2
	case v1alpha1.StepBlessed, v1alpha1.StepRolledBack:
		return 3
	}
	return 1
}

// Watch shows a rollout whenever it has changed, until it is over or the context ends. An API server that is away is
// asked again; away is told, once for each time.
func Watch(ctx context.Context, c client.Reader, key client.ObjectKey, every time.Duration, show func(Rollout),
	away func(error)) (last Rollout, err error) {
	var version string
	failed := false
	for {
		// One small object each time; all Nodes only when that has changed.
		var u v1alpha1.NodeOpUpgrade
		err := c.Get(ctx, key, &u)
		if err == nil && u.ResourceVersion != version {
			var r Rollout
			if r, err = Look(ctx, c, key); err == nil {
				version, last = u.ResourceVersion, r
				show(r)
			}
		}
		switch {
		case ctx.Err() != nil:
			return last, ctx.Err()
		case client.IgnoreNotFound(err) == nil && err != nil:
			return last, err // it was deleted
		case err != nil && !failed:
			away(err)
		case err == nil && last.Outcome != api.ExitUpgrade:
			return last, nil
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(every):
		}
	}
}
