//go:build fleet

package fleet

import (
	"fmt"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// operation begins a NodeOp on the test's fleet.
func operation(t *testing.T, change func(*v1alpha1.NodeOpSpec)) *v1alpha1.NodeOp {
	t.Helper()
	op := &v1alpha1.NodeOp{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: fleetOf(t)}}
	op.Spec = v1alpha1.NodeOpSpec{Command: []string{"flash"}, NodeSelector: chosen(fleetOf(t))}
	change(&op.Spec)
	must(t, cluster.admin.Create(t.Context(), op))
	return op
}

func opEnds(t *testing.T, op *v1alpha1.NodeOp, phase, progress string) {
	t.Helper()
	eventually(t, within, op.Name, func() (bool, string) {
		must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(op), op))
		s := op.Status
		over := s.Phase == v1alpha1.PhaseCompleted || s.Phase == v1alpha1.PhaseFailed
		if over && (s.Phase != phase || s.Progress != progress) {
			t.Fatalf("%s: %+v; want %s, %s", op.Name, s, phase, progress)
		}
		return over, fmt.Sprintf("%+v", s)
	})
}

// A command runs once on each node, after the preflight and the drain, and each node restarts.
func command(t *testing.T) {
	nodes := machines(t, 2)
	app(t, nodes...)
	budget(t, 10)
	w := watch(t, v1alpha1.ParseOp, nil)
	op := operation(t, func(s *v1alpha1.NodeOpSpec) {
		s.Cordon, s.RebootOnSuccess, s.Concurrency = new(true), new(true), 1
		s.DrainOptions = &v1alpha1.DrainOptions{Enabled: new(true)}
		s.Preflight = &v1alpha1.PreflightSpec{Command: []string{"ask"}}
	})
	opEnds(t, op, v1alpha1.PhaseCompleted, "2/2 done")
	ran(t, "ask, flash, restart a", false, nodes...)
	for _, m := range nodes {
		if got := w.of(m.name); got != "Preflight Cordoning Starting Running Restarting Completed" {
			t.Errorf("%s: %s", m.name, got)
		}
		if n := pods(t, m.name); n != 0 {
			t.Errorf("%s: %d pods were there", m.name, n)
		}
	}
	var jobs batchv1.JobList
	must(t, cluster.admin.List(t.Context(), &jobs, client.MatchingLabels{v1alpha1.LabelNodeOp: op.Name}))
	if len(jobs.Items) != 2 {
		t.Errorf("%d Jobs", len(jobs.Items))
	}
	must(t, cluster.admin.Delete(t.Context(), op))
}

// A command that fails on the first node runs on no other, which stopOnFailure asks for, and the node says why.
func commandFails(t *testing.T) {
	nodes := machines(t, 2)
	op := operation(t, func(s *v1alpha1.NodeOpSpec) {
		s.Command, s.Concurrency, s.StopOnFailure, s.Cordon = []string{"fail"}, 1, new(true), new(true)
	})
	opEnds(t, op, v1alpha1.PhaseFailed, "0/2 done, 1 failed")
	if why := op.Status.NodeStatuses[nodes[0].name].Message; !strings.Contains(why, "no such device") {
		t.Errorf("%q", why)
	}
	ran(t, "fail", true, nodes[0])
	ran(t, "", false, nodes[1])
	must(t, cluster.admin.Delete(t.Context(), op))
	eventually(t, within, "the node takes pods", func() (bool, string) {
		return !node(t, nodes[0].name).Spec.Unschedulable, ""
	})
}
