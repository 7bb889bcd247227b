//go:build fleet

package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// within is a rollout's time: a step takes seconds, beside whatever else the machine does.
const within = 3 * time.Minute

func node(t *testing.T, name string) *corev1.Node {
	t.Helper()
	var n corev1.Node
	must(t, cluster.admin.Get(t.Context(), client.ObjectKey{Name: name}, &n))
	return &n
}

// machines adds nodes to the test's fleet, whose names are the test's with a number.
func machines(t *testing.T, count int) (all []*machine) {
	t.Helper()
	for i := range count {
		all = append(all, cluster.nodes.add(t, fmt.Sprintf("%s-%d", fleetOf(t), i+1)))
	}
	return all
}

// chosen are the nodes of a test's fleet.
func chosen(fleet string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"fleet": fleet}}
}

// upgrade begins a rollout of v2 to the test's fleet, unless change says otherwise.
func upgrade(t *testing.T, name string, change func(*v1alpha1.NodeOpUpgradeSpec)) *v1alpha1.NodeOpUpgrade {
	t.Helper()
	u := &v1alpha1.NodeOpUpgrade{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: fleetOf(t) + "-" + name}}
	u.Spec.Image, u.Spec.NodeSelector = "registry.example/os:v2", chosen(fleetOf(t))
	if change != nil {
		change(&u.Spec)
	}
	must(t, cluster.admin.Create(t.Context(), u))
	t.Cleanup(func() {
		must(t, client.IgnoreNotFound(cluster.admin.Delete(context.Background(), u)))
	})
	return u
}

// status reads a rollout's. An API server that is away has none.
func status(u *v1alpha1.NodeOpUpgrade) (v1alpha1.NodeOpUpgradeStatus, error) {
	var now v1alpha1.NodeOpUpgrade
	err := cluster.admin.Get(context.Background(), client.ObjectKeyFromObject(u), &now)
	return now.Status, err
}

// ends waits until a rollout has ended as it is to.
func ends(t *testing.T, u *v1alpha1.NodeOpUpgrade, phase, progress string) v1alpha1.NodeOpUpgradeStatus {
	t.Helper()
	var s v1alpha1.NodeOpUpgradeStatus
	eventually(t, within, u.Name, func() (bool, string) {
		var err error
		if s, err = status(u); err != nil {
			return false, err.Error()
		}
		over := s.Phase == v1alpha1.PhaseCompleted || s.Phase == v1alpha1.PhaseFailed
		if over && (s.Phase != phase || s.Progress != progress) {
			t.Fatalf("%s: %s, %s: %s; want %s, %s", u.Name, s.Phase, s.Progress, s.Message, phase, progress)
		}
		return over, fmt.Sprintf("%s, %s: %s %+v", s.Phase, s.Progress, s.Message, s.NodeStatuses)
	})
	return s
}

// ran checks what has happened to each machine, and whether its node takes pods.
func ran(t *testing.T, want string, cordoned bool, all ...*machine) {
	t.Helper()
	for _, m := range all {
		if got := m.history(); got != want {
			t.Errorf("%s: %s; want %s", m.name, got, want)
		}
		n := node(t, m.name)
		if n.Spec.Unschedulable != cordoned || (n.Annotations[v1alpha1.AnnotationCordonedBy] != "") != cordoned {
			t.Errorf("%s: cordoned: %v, by %q", m.name, n.Spec.Unschedulable,
				n.Annotations[v1alpha1.AnnotationCordonedBy])
		}
	}
}

// steps writes down each step of a fleet's nodes, in order, and calls back when a node comes to one.
type steps struct {
	mu  sync.Mutex
	all map[string][]v1alpha1.Step
}

// watch sees each write of the Nodes of a fleet until the test ends, but for those that an API server which was away
// did not tell.
func watch(t *testing.T, parse func(map[string]string) (*v1alpha1.NodeRecord, error),
	came func(node string, s v1alpha1.Step)) *steps {
	w := &steps{all: map[string][]v1alpha1.Step{}}
	fleet := fleetOf(t)
	factory := informers.NewSharedInformerFactoryWithOptions(cluster.clients, 0, informers.WithTweakListOptions(
		func(o *metav1.ListOptions) { o.LabelSelector = "fleet=" + fleet }))
	look := func(o any) {
		n, ok := o.(*corev1.Node)
		if !ok || t.Context().Err() != nil {
			return
		}
		if r, err := parse(n.Annotations); err == nil && r != nil && w.add(n.Name, r.Step) && came != nil {
			came(n.Name, r.Step)
		}
	}
	_, err := factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: look, UpdateFunc: func(_, o any) { look(o) },
	})
	must(t, err)
	stop := make(chan struct{})
	factory.Start(stop)
	t.Cleanup(func() {
		close(stop)
		factory.Shutdown()
	})
	return w
}

func (w *steps) add(node string, s v1alpha1.Step) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.all[node]
	if len(all) > 0 && all[len(all)-1] == s {
		return false
	}
	w.all[node] = append(all, s)
	return true
}

// of returns the steps of a node, without those that only wait for a turn, which one look may miss.
func (w *steps) of(node string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, s := range w.all[node] {
		if s != v1alpha1.StepStaged {
			out = append(out, string(s))
		}
	}
	return strings.Join(out, " ")
}

func (w *steps) came(node string, s v1alpha1.Step) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.all[node], s)
}

func waves(sizes ...string) (all []v1alpha1.Wave) {
	for _, s := range sizes {
		all = append(all, v1alpha1.Wave{Nodes: new(intstr.Parse(s))})
	}
	return all
}
