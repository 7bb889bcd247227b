//go:build vm && fleet

package cluster

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// rolled is how long a rollout may take; the control plane, the nodes and whatever else runs share two cores.
const rolled = 75 * time.Minute

// A machine whose disk was exported joins by a token, tells the cluster which release it runs, and gets the next one
// from it: its pods are evicted when their budget allows, and come back when it has restarted; so does the operator,
// which is one of them.
func TestFleetOfOne(t *testing.T) {
	f := startFleet(t, 1)
	f.reports(t)
	v2 := f.registry.push(t, imageIn(t, derived(t, f.base, "v2", "RUN echo v2 >/usr/share/version")), "node:v2")
	w := f.watch(t)
	f.workload(t)
	f.good(t, v2, "v2", w)
	for name, vm := range f.machines {
		vm.RootShell()
		if got := vm.Check("kairos-apply status get recovery.version; cat /usr/share/version"); got != "v2\nv2" {
			t.Errorf("%s has the recovery system and the file of %q", name, got)
		}
	}
}

// reports checks that each node says what it runs.
func (f *fleet) reports(t *testing.T) {
	t.Helper()
	for name, vm := range f.machines {
		n, err := f.node(t, name)
		must(t, err)
		if n.Labels[v1alpha1.LabelBootState] != "active" || n.Labels[v1alpha1.LabelManaged] != "true" ||
			condition(n, v1alpha1.ConditionRelease).Status != corev1.ConditionTrue {
			t.Errorf("%+v", n)
		}
		if got := vm.Check("kairos-apply status get booted.release"); got != n.Labels[v1alpha1.LabelRelease] {
			t.Errorf("the node runs %s, its label says %s", got, n.Labels[v1alpha1.LabelRelease])
		}
	}
}

// good rolls a release out that has to be good on all nodes, the recovery system included.
func (f *fleet) good(t *testing.T, image, version string, w *watched) {
	t.Helper()
	boots := w.boots()
	u := f.upgrade(t, version, image)
	var canary string
	eventually(t, 30*time.Minute, "a node is cordoned", func() (bool, string) {
		for name := range boots {
			if n, err := f.node(t, name); err == nil && n.Spec.Unschedulable {
				canary = name
			}
		}
		return canary != "", f.status(t, u).Message
	})
	// No pod may go: two are, two are to be. That holds the node.
	eventually(t, 5*time.Minute, "the budget refuses an eviction", func() (bool, string) {
		n := f.refusedEvictions(t)
		return n > 0, fmt.Sprint(n)
	})
	if got := f.pods(t, canary); got == 0 || !maps.Equal(boots, w.boots()) {
		t.Errorf("%d pods are on the node whose budget lets none go; boots were %v and are %v", got, boots, w.boots())
	}
	f.budget(t, 0) // pods have no other node
	f.ends(t, u, v1alpha1.PhaseCompleted, fmt.Sprintf("%[1]d/%[1]d blessed", len(boots)))
	for name, boot := range w.boots() {
		f.up(t, name, version)
		if n, err := f.node(t, name); err != nil || n.Spec.Unschedulable {
			t.Errorf("%s is cordoned, %v", name, err)
		}
		if boot != boots[name]+1 {
			t.Errorf("%s restarted %d times", name, boot-boots[name])
		}
	}
	eventually(t, 10*time.Minute, "the pods are back", func() (bool, string) {
		got := f.pods(t, canary)
		return got == 2, fmt.Sprint(got)
	})
	if least := w.fewest(); least != 0 {
		t.Errorf("%d pods at least were ready: the node was not drained", least)
	}
}

// upgrade creates a rollout that begins with one node.
func (f *fleet) upgrade(t *testing.T, name, image string) client.ObjectKey {
	t.Helper()
	one := intstr.FromInt32(1)
	u := &v1alpha1.NodeOpUpgrade{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name},
		Spec: v1alpha1.NodeOpUpgradeSpec{Image: image, MaxUnavailable: &one, UpgradeRecovery: new(true),
			Waves: []v1alpha1.Wave{{Nodes: &one}, {Nodes: new(intstr.FromString("100%"))}}},
	}
	must(t, f.admin.Create(t.Context(), u))
	return client.ObjectKeyFromObject(u)
}

func (f *fleet) status(t *testing.T, u client.ObjectKey) v1alpha1.NodeOpUpgradeStatus {
	t.Helper()
	var o v1alpha1.NodeOpUpgrade
	if err := f.admin.Get(t.Context(), u, &o); err != nil {
		return v1alpha1.NodeOpUpgradeStatus{Message: err.Error()}
	}
	return o.Status
}

// ends waits for the end of a rollout.
func (f *fleet) ends(t *testing.T, u client.ObjectKey, phase, progress string) (s v1alpha1.NodeOpUpgradeStatus) {
	t.Helper()
	last := ""
	eventually(t, rolled, "rollout "+u.Name+" ends", func() (bool, string) {
		s = f.status(t, u)
		got := fmt.Sprintf("%s: %s; %s; %v", s.Phase, s.Progress, s.Message, s.NodeStatuses)
		if got != last {
			t.Logf("%s %s", time.Now().Format(time.TimeOnly), got)
			last = got
		}
		return s.Phase == v1alpha1.PhaseCompleted || s.Phase == v1alpha1.PhaseFailed, got
	})
	if s.Phase != phase || s.Progress != progress {
		t.Fatalf("%s: %s, want %s: %s; %+v", s.Phase, s.Progress, phase, progress, s)
	}
	return s
}

var app = map[string]string{"app": "web"}

// workload runs two pods, both of which have to be ready.
func (f *fleet) workload(t *testing.T) {
	t.Helper()
	must(t, f.admin.Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: app},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: app},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web",
					Image: fmt.Sprintf("%s:%d/pause:3.8", hostAddress, f.registry.port)}}},
			},
		},
	}))
	f.budget(t, 2)
	eventually(t, 10*time.Minute, "the pods are ready", func() (bool, string) {
		var all corev1.PodList
		must(t, f.admin.List(t.Context(), &all, client.MatchingLabels(app)))
		n := 0
		for _, p := range all.Items {
			if ready(&p) {
				n++
			}
		}
		return n == 2, fmt.Sprint(n)
	})
}

// budget says how many of these pods have to be ready.
func (f *fleet) budget(t *testing.T, least int32) {
	t.Helper()
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	b.Spec = policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromInt32(least)),
		Selector: &metav1.LabelSelector{MatchLabels: app}}
	err := f.admin.Create(t.Context(), b)
	if client.IgnoreAlreadyExists(err) != nil {
		t.Fatal(err)
	}
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"minAvailable":%d}}`, least))
	must(t, f.admin.Patch(t.Context(), b, patch))
}

// pods counts those of the workload that are ready on a node.
func (f *fleet) pods(t *testing.T, node string) (n int) {
	t.Helper()
	var all corev1.PodList
	must(t, f.admin.List(t.Context(), &all, client.MatchingLabels(app)))
	for _, p := range all.Items {
		if p.Spec.NodeName == node && ready(&p) {
			n++
		}
	}
	return n
}

func ready(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// evictions matches the API server's count of evictions that a budget has refused.
var evictions = regexp.MustCompile(`(?m)^apiserver_request_total\{code="429",.*subresource="eviction".*\} (\d+)$`)

func (f *fleet) refusedEvictions(t *testing.T) (n int) {
	t.Helper()
	b, err := f.clients.RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	must(t, err)
	if m := evictions.FindSubmatch(b); m != nil {
		_, err := fmt.Sscan(string(m[1]), &n)
		must(t, err)
	}
	return n
}

// watched is what has been seen of nodes and of the workload at any time.
type watched struct {
	mu    sync.Mutex
	boot  map[string][]string // of each node, in order
	pods  map[string]bool     // that are ready
	least int                 // pods ready at a time, from when two were for the first time; else -1
}

func (f *fleet) watch(t *testing.T) *watched {
	t.Helper()
	w := &watched{boot: map[string][]string{}, pods: map[string]bool{}, least: -1}
	factory := informers.NewSharedInformerFactory(f.clients, 0)
	look := func(o any) {
		w.mu.Lock()
		defer w.mu.Unlock()
		switch o := o.(type) {
		case *corev1.Node:
			id := o.Status.NodeInfo.BootID
			if all := w.boot[o.Name]; len(all) == 0 || all[len(all)-1] != id {
				w.boot[o.Name] = append(all, id)
			}
		case *corev1.Pod:
			if o.Labels["app"] == app["app"] {
				w.pods[o.Name] = ready(o)
			}
		case cache.DeletedFinalStateUnknown:
			return
		}
		n := 0
		for _, is := range w.pods {
			if is {
				n++
			}
		}
		if w.least >= 0 {
			w.least = min(w.least, n)
		} else if n == 2 {
			w.least = n
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: look, UpdateFunc: func(_, o any) { look(o) }, DeleteFunc: func(o any) {
			if p, ok := o.(*corev1.Pod); ok {
				p = p.DeepCopy()
				p.Status.Conditions = nil
				look(p)
			}
		},
	}
	for _, i := range []cache.SharedIndexInformer{
		factory.Core().V1().Nodes().Informer(), factory.Core().V1().Pods().Informer(),
	} {
		_, err := i.AddEventHandler(handler)
		must(t, err)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	factory.WaitForCacheSync(stop)
	t.Cleanup(func() {
		close(stop)
		factory.Shutdown()
	})
	return w
}

// boots returns how many boots of each node were seen.
func (w *watched) boots() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := map[string]int{}
	for name, all := range w.boot {
		n[name] = len(all)
	}
	return n
}

// fewest is how many pods of the workload were ready at a time, at least.
func (w *watched) fewest() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.least
}
