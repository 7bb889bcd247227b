//go:build fleet

package fleet

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

const alone = "--leader-elect=false"

// An operator that is killed at each step of a rollout goes on where it was: each node restarts once, is drained by
// evictions that a PodDisruptionBudget holds up, and the second wave begins when the first one is blessed.
func TestKilledAtEachStep(t *testing.T) {
	nodes := machines(t, 3)
	app(t, nodes...)
	budget(t, 0)
	m := startManager(t, alone)
	var mu sync.Mutex
	seen := map[v1alpha1.Step]bool{}
	w := watch(t, v1alpha1.ParseRecord, func(_ string, s v1alpha1.Step) {
		mu.Lock()
		defer mu.Unlock()
		if !seen[s] {
			seen[s] = true
			m.kill()
		}
	})
	u := upgrade(t, "os", func(s *v1alpha1.NodeOpUpgradeSpec) {
		s.Waves, s.UpgradeRecovery = waves("1", "100%"), new(true)
	})
	eventually(t, within, "the first node is cordoned", func() (bool, string) {
		return node(t, nodes[0].name).Spec.Unschedulable, w.of(nodes[0].name)
	})
	eventually(t, within, "the budget holds the node's pods", func() (bool, string) {
		return pods(t, nodes[0].name) == 1 && m.started() > 2, fmt.Sprint(pods(t, nodes[0].name))
	})
	if n := node(t, nodes[1].name); n.Annotations[v1alpha1.AnnotationRecord] != "" {
		t.Errorf("the second wave has begun: %s", n.Annotations[v1alpha1.AnnotationRecord])
	}
	budget(t, 10)
	s := ends(t, u, v1alpha1.PhaseCompleted, "3/3 blessed")
	if s.Release != v2 || s.Wave != 2 {
		t.Errorf("%+v", s)
	}
	ran(t, "restart b, recovery b", false, nodes...)
	for _, n := range nodes {
		if got := w.of(n.name); got != "Staging Cordoning Restarting Trial Recovery Blessed" {
			t.Errorf("%s: %s", n.name, got)
		}
		if got := pods(t, n.name); got != 0 {
			t.Errorf("%s: %d pods have seen the restart", n.name, got)
		}
	}
	if n := m.started(); n < 6 {
		t.Errorf("the operator was started %d times", n)
	}
	eventually(t, within, "helper pods go", func() (bool, string) {
		var left corev1.PodList
		must(t, cluster.admin.List(t.Context(), &left, client.HasLabels{v1alpha1.LabelUpgrade}))
		return len(left.Items) == 0, fmt.Sprint(len(left.Items))
	})
}

// A cluster whose API server is gone for some seconds, at two of the steps that matter, loses nothing; nor does one
// whose operator has lost its Lease by that.
func TestServerAway(t *testing.T) {
	nodes := machines(t, 2)
	startManager(t, "--leader-elect-namespace="+system)
	away := make(chan v1alpha1.Step, 16)
	w := watch(t, v1alpha1.ParseRecord, func(_ string, s v1alpha1.Step) { away <- s })
	u := upgrade(t, "os", func(s *v1alpha1.NodeOpUpgradeSpec) { s.Concurrency = 1 })
	left := map[v1alpha1.Step]bool{v1alpha1.StepStaging: true, v1alpha1.StepRestarting: true}
	for len(left) > 0 {
		select {
		case s := <-away:
			if left[s] {
				delete(left, s)
				stopServer()
				must(t, cluster.env.ControlPlane.APIServer.Start())
			}
		case <-time.After(within):
			t.Fatalf("no node comes to %v: %s, %s", left, w.of(nodes[0].name), w.of(nodes[1].name))
		}
	}
	ends(t, u, v1alpha1.PhaseCompleted, "2/2 blessed")
	ran(t, "restart b", false, nodes...)
}

// Of two operators one works. When it is killed, the other one goes on.
func TestTwoOperators(t *testing.T) {
	nodes := machines(t, 2)
	before := leader(t)
	one := startManager(t, "--leader-elect-namespace="+system)
	eventually(t, within, "it leads", func() (bool, string) { return leader(t) != before, before })
	before = leader(t)
	startManager(t, "--leader-elect-namespace="+system)
	one.mu.Lock()
	one.over = true
	one.mu.Unlock()
	var once sync.Once
	watch(t, v1alpha1.ParseRecord, func(_ string, s v1alpha1.Step) {
		if s == v1alpha1.StepRestarting {
			once.Do(one.kill)
		}
	})
	u := upgrade(t, "os", func(s *v1alpha1.NodeOpUpgradeSpec) { s.Concurrency = 1 })
	ends(t, u, v1alpha1.PhaseCompleted, "2/2 blessed")
	ran(t, "restart b", false, nodes...)
	if leader(t) == before {
		t.Error("the other operator never led")
	}
}

// leader names the operator that works.
func leader(t *testing.T) string {
	t.Helper()
	leases := cluster.clients.CoordinationV1().Leases(system)
	l, err := leases.Get(t.Context(), "operator.kairos.io", metav1.GetOptions{})
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	if err != nil || l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

// What an API server and its nodes do to rollouts, all beside each other: one operator has them all.
func TestFaults(t *testing.T) {
	startManager(t, alone)
	for name, test := range map[string]func(*testing.T){
		"Conflicts": conflicts, "Deleted": deleted, "Two": two, "Nothing": nothing, "NoImage": noImage, "Skew": skew,
		"FellBack": fellBack, "Rollback": rollBack, "Command": command, "CommandFails": commandFails,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// Somebody writes each Node all the time.
func conflicts(t *testing.T) {
	nodes := machines(t, 2)
	ctx := t.Context()
	var over sync.WaitGroup
	for _, m := range nodes {
		over.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				_ = m.patch(ctx, map[string]any{"metadata": map[string]any{"labels": map[string]string{
					"noise": fmt.Sprint(i)}}})
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	t.Cleanup(over.Wait)
	ends(t, upgrade(t, "os", nil), v1alpha1.PhaseCompleted, "2/2 blessed")
	ran(t, "restart b", false, nodes...)
	if n := refused(t, 409); n == 0 {
		t.Error("no write of the operator has met another one")
	}
}

// A node that is deleted, while it is in work, is no part of the rollout any more.
func deleted(t *testing.T) {
	nodes := machines(t, 3)
	app(t, nodes[1])
	w := watch(t, v1alpha1.ParseRecord, nil)
	// The pods of the second node do not go: it stays where it is.
	budgetOf(t, nodes[1], 0)
	u := upgrade(t, "os", nil)
	eventually(t, within, "the second node is cordoned", func() (bool, string) {
		return w.came(nodes[1].name, v1alpha1.StepCordoning), w.of(nodes[1].name)
	})
	must(t, cluster.admin.Delete(t.Context(), node(t, nodes[1].name)))
	cluster.nodes.leave(nodes[1])
	ends(t, u, v1alpha1.PhaseCompleted, "2/2 blessed")
	ran(t, "restart b", false, nodes[0], nodes[2])
}

// The second of two rollouts has the nodes when the first one is over.
func two(t *testing.T) {
	nodes := machines(t, 2)
	app(t, nodes...)
	budget(t, 0)
	first := upgrade(t, "a", func(s *v1alpha1.NodeOpUpgradeSpec) { s.Concurrency = 1 })
	eventually(t, within, "the first one begins", func() (bool, string) {
		s, err := status(first)
		return s.Nodes.Working > 0, fmt.Sprint(s.Message, err)
	})
	second := upgrade(t, "b", func(s *v1alpha1.NodeOpUpgradeSpec) { s.Image = "registry.example/os:v3" })
	eventually(t, within, "the second one waits", func() (bool, string) {
		s, err := status(second)
		return strings.Contains(s.Message, "NodeOpUpgrade "+system+"/"+first.Name+" has"), fmt.Sprint(s.Message, err)
	})
	budget(t, 10)
	ends(t, first, v1alpha1.PhaseCompleted, "2/2 blessed")
	ends(t, second, v1alpha1.PhaseCompleted, "2/2 blessed")
	ran(t, "restart b, restart c", false, nodes...)
}

// A selector that chooses nothing says so, and a node that comes later has its turn.
func nothing(t *testing.T) {
	u := upgrade(t, "os", nil)
	eventually(t, within, "it says so", func() (bool, string) {
		s, err := status(u)
		return s.Phase == v1alpha1.PhasePending && s.Message == "no node has the labels of nodeSelector",
			fmt.Sprint(s.Phase, s.Message, err)
	})
	nodes := machines(t, 1)
	ends(t, u, v1alpha1.PhaseCompleted, "1/1 blessed")
	ran(t, "restart b", false, nodes...)
}

// A node that cannot fetch the image is neither cordoned nor restarted, and tells why.
func noImage(t *testing.T) {
	nodes := machines(t, 2)
	u := upgrade(t, "os", func(s *v1alpha1.NodeOpUpgradeSpec) {
		s.Image, s.BackoffLimit, s.Waves = "registry.example/os:gone", new(int32(1)), waves("1", "100%")
	})
	s := ends(t, u, v1alpha1.PhaseFailed, "0/2 blessed, 1 failed")
	if !strings.Contains(s.Stopped, "registry.example/os:gone: not found") {
		t.Errorf("%q", s.Stopped)
	}
	ran(t, "", false, nodes...)
}

// Nodes whose clocks are a day ahead and a day behind, and a record of an operator whose clock was, change nothing.
func skew(t *testing.T) {
	nodes := machines(t, 2)
	nodes[0].skew, nodes[1].skew = 24*time.Hour, -24*time.Hour
	var once sync.Once
	watch(t, v1alpha1.ParseRecord, func(name string, s v1alpha1.Step) {
		if s == v1alpha1.StepRestarting {
			once.Do(func() { ahead(t, name) })
		}
	})
	ends(t, upgrade(t, "os", nil), v1alpha1.PhaseCompleted, "2/2 blessed")
	ran(t, "restart b", false, nodes...)
}

// ahead has a node's record be of tomorrow.
func ahead(t *testing.T, name string) {
	for {
		var n corev1.Node
		if err := cluster.admin.Get(t.Context(), client.ObjectKey{Name: name}, &n); err != nil {
			t.Error(err)
			return
		}
		r, err := v1alpha1.ParseRecord(n.Annotations)
		if err != nil || r.Step.Ended() {
			return
		}
		r.Since = metav1.NewTime(time.Now().Add(24 * time.Hour))
		n.Annotations[v1alpha1.AnnotationRecord] = r.String()
		if cluster.admin.Update(t.Context(), &n) == nil {
			return
		}
	}
}

// The canary falls back: the rollout stops and says why, the canary stays cordoned, and no other node was begun with.
func fellBack(t *testing.T) {
	nodes := machines(t, 3)
	nodes[0].bad = v2
	u := upgrade(t, "os", func(s *v1alpha1.NodeOpUpgradeSpec) { s.Waves = waves("1", "100%") })
	s := ends(t, u, v1alpha1.PhaseFailed, "0/3 blessed, 1 fell back")
	const why = "check kubelet failed: the node is not Ready"
	if s.NodeStatuses[nodes[0].name].Message != why || !strings.Contains(s.Stopped, nodes[0].name+" fell back: "+why) {
		t.Errorf("%+v", s)
	}
	ran(t, "restart b, falls back to a", true, nodes[0])
	ran(t, "", false, nodes[1:]...)
	for _, n := range nodes[1:] {
		if r := node(t, n.name).Annotations[v1alpha1.AnnotationRecord]; r != "" {
			t.Errorf("%s: %s", n.name, r)
		}
	}
	// The node says it, too.
	for _, c := range node(t, nodes[0].name).Status.Conditions {
		if c.Type == v1alpha1.ConditionRelease && (c.Reason != v1alpha1.ReasonFellBack ||
			!strings.Contains(c.Message, why)) {
			t.Errorf("%+v", c)
		}
	}
	// Deleting the rollout gives the node back.
	must(t, cluster.admin.Delete(t.Context(), u))
	eventually(t, within, "the node takes pods", func() (bool, string) {
		return !node(t, nodes[0].name).Spec.Unschedulable, ""
	})
}

// A rollout that is taken back takes its nodes back.
func rollBack(t *testing.T) {
	nodes := machines(t, 2)
	u := upgrade(t, "os", nil)
	ends(t, u, v1alpha1.PhaseCompleted, "2/2 blessed")
	patch := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"rollback":true}}`))
	must(t, cluster.admin.Patch(t.Context(), u, patch))
	eventually(t, within, "all go back", func() (bool, string) {
		s, err := status(u)
		return s.Progress == "0/2 blessed, 2 rolled back", fmt.Sprint(s.Progress, s.Message, err)
	})
	ran(t, "restart b, restart a", false, nodes...)
}

// app puts a pod on each of these nodes, as a ReplicaSet does.
func app(t *testing.T, nodes ...*machine) {
	t.Helper()
	for _, m := range nodes {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "app-" + m.name,
			Labels: map[string]string{"app": fleetOf(t), "on": m.name},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "app", UID: "1",
				Controller: new(true)}},
		}, Spec: corev1.PodSpec{NodeName: m.name, Containers: []corev1.Container{{Name: "c", Image: "app:1"}}}}
		must(t, cluster.admin.Create(t.Context(), p))
		t.Cleanup(func() {
			now := client.GracePeriodSeconds(0)
			must(t, client.IgnoreNotFound(cluster.admin.Delete(context.Background(), p, now)))
		})
		eventually(t, within, p.Name+" runs", func() (bool, string) {
			must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(p), p))
			return p.Status.Phase == corev1.PodRunning, string(p.Status.Phase)
		})
	}
}

// pods counts a node's that are not of DaemonSets.
func pods(t *testing.T, node string) (n int) {
	t.Helper()
	var list corev1.PodList
	must(t, cluster.admin.List(t.Context(), &list, client.MatchingLabels{"on": node}))
	return len(list.Items)
}

// budget lets so many pods of the test's be evicted, as the controller of PodDisruptionBudgets does.
func budget(t *testing.T, allowed int32) {
	t.Helper()
	disruption(t, fleetOf(t), map[string]string{"app": fleetOf(t)}, allowed)
}

func budgetOf(t *testing.T, m *machine, allowed int32) {
	t.Helper()
	disruption(t, m.name, map[string]string{"on": m.name}, allowed)
}

func disruption(t *testing.T, name string, pods map[string]string, allowed int32) {
	t.Helper()
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	b.Spec = policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromInt32(1)),
		Selector: &metav1.LabelSelector{MatchLabels: pods}}
	err := cluster.admin.Create(t.Context(), b)
	if client.IgnoreAlreadyExists(err) != nil {
		t.Fatal(err)
	}
	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(b), b))
	b.Status.DisruptionsAllowed, b.Status.ObservedGeneration = allowed, b.Generation
	b.Status.ExpectedPods, b.Status.CurrentHealthy, b.Status.DesiredHealthy = allowed+1, allowed+1, 1
	must(t, cluster.admin.Status().Update(t.Context(), b))
}
