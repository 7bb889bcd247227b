package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

const oldRelease, newRelease = "aaaaaaaaaaaa", "bbbbbbbbbbbb"

// cluster is an API server's objects, nodes that do what helper pods tell them, and one operator at a time.
type cluster struct {
	t   *testing.T
	api client.Client
	now time.Time
	bad map[string]bool // nodes that fall back, and on which commands fail
	// hung are nodes on which a command does not end, skip is what preflights say, ran how often commands have run.
	hung map[string]bool
	skip map[string]string
	ran  map[string]int
	// before is asked before each write of the operator's, after told after it; an error is what the operator gets.
	before, after func(write int) error
	writes        int
	held          int // evictions that a budget refuses
	r             *upgrades
	ops           *ops
}

// objects is one for all tests, which empty it: it takes half a second to make.
var objects = sync.OnceValue(func() client.Client {
	s, err := Scheme()
	if err != nil {
		panic(err)
	}
	return fake.NewClientBuilder().WithScheme(s).
		WithStatusSubresource(&v1alpha1.NodeOpUpgrade{}, &v1alpha1.NodeOp{}, &corev1.Node{}, &corev1.Pod{},
			&batchv1.Job{}).Build()
})

func newCluster(t *testing.T, nodes int) *cluster {
	t.Helper()
	c := &cluster{t: t, now: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC), bad: map[string]bool{}, api: objects(),
		hung: map[string]bool{}, ran: map[string]int{}}
	var old v1alpha1.NodeOpUpgradeList
	c.must(c.api.List(t.Context(), &old))
	for i := range old.Items {
		old.Items[i].Finalizers = nil
		c.must(c.api.Update(t.Context(), &old.Items[i]))
	}
	var ops v1alpha1.NodeOpList
	c.must(c.api.List(t.Context(), &ops))
	for i := range ops.Items {
		ops.Items[i].Finalizers = nil
		c.must(c.api.Update(t.Context(), &ops.Items[i]))
	}
	for _, o := range []client.Object{
		&v1alpha1.NodeOpUpgrade{}, &v1alpha1.NodeOp{}, &batchv1.Job{}, &corev1.Pod{},
	} {
		c.must(c.api.DeleteAllOf(t.Context(), o, client.InNamespace("default")))
	}
	c.must(c.api.DeleteAllOf(t.Context(), &corev1.Node{}))
	for i := range nodes {
		c.addNode(fmt.Sprintf("n%d", i+1))
	}
	c.restart()
	return c
}

func (c *cluster) addNode(name string) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}}
	c.must(c.api.Create(c.t.Context(), n))
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	c.must(c.api.Status().Update(c.t.Context(), n))
	c.boot(name, oldRelease, "")
}

// boot has a node start a release, and its agent say so.
func (c *cluster) boot(name, release, failed string) {
	c.t.Helper()
	var n corev1.Node
	c.must(c.api.Get(c.t.Context(), client.ObjectKey{Name: name}, &n))
	n.Status.NodeInfo.BootID += "x"
	c.must(c.api.Status().Update(c.t.Context(), &n))
	at := &v1alpha1.NodeRelease{Release: release, Blessed: true}
	report := v1alpha1.NodeReport{
		Schema: v1alpha1.ReportSchema, BootID: n.Status.NodeInfo.BootID, Booted: at, Active: at,
	}
	if failed != "" {
		report.Failed = []v1alpha1.NodeRelease{{Release: failed, Reason: "check kubelet failed"}}
	}
	if n.Annotations == nil {
		n.Annotations = map[string]string{}
	}
	n.Annotations[v1alpha1.AnnotationReport] = report.String()
	c.must(c.api.Update(c.t.Context(), &n))
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// restart begins with a new operator, which knows nothing but the objects.
func (c *cluster) restart() {
	write := func(do func() error) error {
		c.writes++
		n := c.writes
		if c.before != nil {
			if err := c.before(n); err != nil {
				return err
			}
		}
		if err := do(); err != nil {
			return err
		}
		if c.after != nil {
			return c.after(n)
		}
		return nil
	}
	watched := interceptor.NewClient(c.api.(client.WithWatch), interceptor.Funcs{
		Create: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return write(func() error { return w.Create(ctx, o, opts...) })
		},
		Update: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return write(func() error { return w.Update(ctx, o, opts...) })
		},
		Patch: func(ctx context.Context, w client.WithWatch, o client.Object, p client.Patch,
			opts ...client.PatchOption) error {
			return write(func() error { return w.Patch(ctx, o, p, opts...) })
		},
		Delete: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return write(func() error { return w.Delete(ctx, o, opts...) })
		},
		SubResourceUpdate: func(ctx context.Context, w client.Client, sub string, o client.Object,
			opts ...client.SubResourceUpdateOption) error {
			return write(func() error { return w.SubResource(sub).Update(ctx, o, opts...) })
		},
	})
	b := base{
		Options: Options{HelperImage: "operator:test", Now: func() time.Time { return c.now }}, Client: watched,
		events: events.NewFakeRecorder(10000),
		evict: func(context.Context, string, *v1alpha1.DrainOptions) (rollout.Drain, error) {
			if c.held > 0 {
				c.held--
				return rollout.Drain{Left: []string{"default/web is held by a PodDisruptionBudget"}}, nil
			}
			return rollout.Drain{}, nil
		},
	}
	c.r, c.ops = newUpgrades(b), newOps(b, c.api)
}

// agents has each helper pod do its work.
func (c *cluster) agents() {
	c.t.Helper()
	var pods corev1.PodList
	c.must(c.api.List(c.t.Context(), &pods))
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.Status.Phase != "" || p.Labels[v1alpha1.LabelNodeOp] != "" {
			continue
		}
		c.check(p)
		p.Status.Phase = corev1.PodSucceeded
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: helperContainer}}
		p.Status.ContainerStatuses[0].State.Terminated = &corev1.ContainerStateTerminated{
			Message: v1alpha1.HelperReport{Release: newRelease, Version: "v2", Changed: true}.String(),
		}
		if p.Labels[v1alpha1.LabelStep] == string(v1alpha1.StepRestarting) {
			p.Status.Phase, p.Status.ContainerStatuses = corev1.PodFailed, nil // the restart ends it
			if c.bad[p.Spec.NodeName] {
				c.boot(p.Spec.NodeName, oldRelease, newRelease)
			} else {
				c.boot(p.Spec.NodeName, newRelease, "")
			}
		}
		c.must(c.api.Status().Update(c.t.Context(), p))
	}
}

// check says whether a helper pod is what it is to be.
func (c *cluster) check(p *corev1.Pod) {
	c.t.Helper()
	s := p.Spec
	if len(p.Name) > 63 || s.Containers[0].Image != "operator:test" || !s.HostPID || s.NodeName == "" ||
		s.ActiveDeadlineSeconds == nil || *s.AutomountServiceAccountToken || len(p.OwnerReferences) != 1 {
		c.t.Errorf("helper pod %s: %+v", p.Name, s)
	}
	for _, arg := range s.Containers[0].Args {
		if strings.ContainsAny(arg, ";&|$") {
			c.t.Errorf("helper pod %s: a shell would be needed for %q", p.Name, arg)
		}
	}
}

func (c *cluster) create(name string, change func(*v1alpha1.NodeOpUpgrade)) {
	c.t.Helper()
	u := &v1alpha1.NodeOpUpgrade{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name),
			CreationTimestamp: metav1.NewTime(c.now)},
		Spec: v1alpha1.NodeOpUpgradeSpec{Image: "reg/os:v2"},
	}
	if change != nil {
		change(u)
	}
	c.must(c.api.Create(c.t.Context(), u))
}

func (c *cluster) get(name string) *v1alpha1.NodeOpUpgrade {
	c.t.Helper()
	u := &v1alpha1.NodeOpUpgrade{}
	c.must(c.api.Get(c.t.Context(), client.ObjectKey{Namespace: "default", Name: name}, u))
	return u
}

var errKilled = errors.New("the operator was killed")

// run has operators at work until these rollouts are over, or for so many rounds.
func (c *cluster) run(names ...string) {
	c.t.Helper()
	c.work(names, func(q reconcile.Request) error {
		_, err := c.r.Reconcile(c.t.Context(), q)
		return err
	}, func(name string) bool { return rollout.Over(c.get(name)) }, c.agents)
}

// work reconciles objects, and then lets the nodes do their part, until all are over, or for so many rounds.
func (c *cluster) work(names []string, do func(reconcile.Request) error, isOver func(string) bool, nodes func()) {
	c.t.Helper()
	for range 400 {
		over := true
		for _, name := range names {
			if err := do(request(name)); errors.Is(err, errKilled) {
				c.restart()
			}
			over = over && isOver(name)
		}
		nodes()
		c.now = c.now.Add(time.Second)
		if over {
			return
		}
	}
}

func (c *cluster) want(name, phase, progress string) {
	c.t.Helper()
	s := c.get(name).Status
	if s.Phase != phase || s.Progress != progress {
		c.t.Errorf("%s: %s, %s: %s; want %s, %s", name, s.Phase, s.Progress, s.Message, phase, progress)
	}
}

// nodes returns what each node runs, and whether it is cordoned.
func (c *cluster) nodes() string {
	c.t.Helper()
	var list corev1.NodeList
	c.must(c.api.List(c.t.Context(), &list))
	var out []string
	for i := range list.Items {
		n := rollout.NodeOf(&list.Items[i])
		s := n.Name + " " + n.Report.Booted.Release[:1]
		if n.Cordoned {
			s += " cordoned"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func TestRollout(t *testing.T) {
	c := newCluster(t, 3)
	c.held = 3
	c.create("os", func(u *v1alpha1.NodeOpUpgrade) { u.Spec.Concurrency = 1 })
	c.run("os")
	c.want("os", v1alpha1.PhaseCompleted, "3/3 blessed")
	if got := c.nodes(); got != "n1 b, n2 b, n3 b" {
		t.Error(got)
	}
	c.run("os") // which removes what is left
	var pods corev1.PodList
	c.must(c.api.List(t.Context(), &pods))
	if len(pods.Items) > 0 {
		t.Errorf("%d helper pods are left", len(pods.Items))
	}
	// A node costs so many writes, whatever the rollout's size.
	if per := float64(c.writes) / 3; per > 20 {
		t.Errorf("%.1f writes for each node", per)
	} else {
		t.Logf("%.1f writes for each node, status included", per)
	}
	before := c.writes
	c.run("os")
	if c.writes != before {
		t.Errorf("a rollout that is over takes %d writes", c.writes-before)
	}
}

func TestFallBackStops(t *testing.T) {
	c := newCluster(t, 3)
	c.bad["n1"] = true
	yes := true
	c.create("os", func(u *v1alpha1.NodeOpUpgrade) { u.Spec.Concurrency, u.Spec.StopOnFailure = 1, &yes })
	c.run("os")
	c.want("os", v1alpha1.PhaseFailed, "0/3 blessed, 1 fell back")
	if got := c.nodes(); got != "n1 a cordoned, n2 a, n3 a" {
		t.Error(got)
	}
	if s := c.get("os").Status; s.NodeStatuses["n1"].Message != "check kubelet failed" {
		t.Errorf("%+v", s.NodeStatuses)
	}
	// The next rollout takes the cordon over, and gives it back.
	c.bad = map[string]bool{}
	c.create("next", func(u *v1alpha1.NodeOpUpgrade) {
		u.Spec.Force = &yes
		u.CreationTimestamp = metav1.NewTime(c.now)
	})
	c.run("next")
	c.want("next", v1alpha1.PhaseCompleted, "3/3 blessed")
	if got := c.nodes(); got != "n1 b, n2 b, n3 b" {
		t.Error(got)
	}
}

// An operator that is killed before or after any of its writes, one that finds that another write came first, and
// an API server that is away, change nothing about how a rollout ends.
func TestInterruptedAtEachWrite(t *testing.T) {
	whole := newCluster(t, 2)
	whole.bad["n2"] = true
	whole.create("os", nil)
	whole.run("os")
	whole.want("os", v1alpha1.PhaseFailed, "1/2 blessed, 1 fell back")
	if whole.writes < 10 {
		t.Fatalf("only %d writes", whole.writes)
	}
	away := apierrors.NewServiceUnavailable("away")
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "nodes"}, "n1", errors.New("changed"))
	for at := 1; at <= whole.writes; at++ {
		once := func(err error) func(int) error {
			return func(n int) error {
				if n == at {
					return err
				}
				return nil
			}
		}
		faults := []struct {
			name string
			set  func(*cluster)
		}{
			{"killed before", func(c *cluster) { c.before = once(errKilled) }},
			{"conflict", func(c *cluster) { c.before = once(conflict) }},
			{"answer lost", func(c *cluster) { c.after = once(away) }},
			{"away for ten writes", func(c *cluster) {
				c.before = func(n int) error {
					if n >= at && n < at+10 {
						return away
					}
					return nil
				}
			}},
			{"killed after", func(c *cluster) { c.after = once(errKilled) }},
		}
		// Killed after each write, and with one of the others, in turn: all with each take minutes.
		for _, fault := range []int{at % 4, 4} {
			name := faults[fault].name
			c := newCluster(t, 2)
			c.bad["n2"] = true
			faults[fault].set(c)
			c.create("os", nil)
			c.run("os")
			s := c.get("os").Status
			if got := c.nodes(); s.Phase != v1alpha1.PhaseFailed || s.Progress != "1/2 blessed, 1 fell back" ||
				got != "n1 b, n2 a cordoned" {
				t.Errorf("write %d, %s: %s, %s, %s: %s", at, name, s.Phase, s.Progress, got, s.Message)
			}
		}
	}
	t.Logf("%d writes, each interrupted in two ways", whole.writes)
}

// Of two rollouts the older one has the nodes that both choose; the newer one has them when it is over.
func TestTwoRollouts(t *testing.T) {
	c := newCluster(t, 3)
	c.create("first", func(u *v1alpha1.NodeOpUpgrade) { u.Spec.Concurrency = 1 })
	c.create("second", func(u *v1alpha1.NodeOpUpgrade) {
		u.CreationTimestamp = metav1.NewTime(c.now.Add(time.Second))
	})
	q := func(name string) reconcile.Request {
		return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: name}}
	}
	for range 5 {
		for _, name := range []string{"second", "first"} {
			if _, err := c.r.Reconcile(t.Context(), q(name)); err != nil {
				t.Fatal(err)
			}
		}
		c.agents()
	}
	if s := c.get("second").Status; s.Nodes.Working+s.Nodes.Blessed > 0 ||
		!strings.Contains(s.Message, "NodeOpUpgrade default/first has") {
		t.Errorf("the second one: %s, %s", s.Progress, s.Message)
	}
	c.run("first", "second")
	c.want("first", v1alpha1.PhaseCompleted, "3/3 blessed")
	c.want("second", v1alpha1.PhaseCompleted, "3/3 blessed")
}

// A rollout that is deleted leaves no cordon of its own and no record; a node that is deleted is no part of it.
func TestDeleted(t *testing.T) {
	c := newCluster(t, 2)
	c.create("os", nil)
	q := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: "os"}}
	for !strings.Contains(c.nodes(), "cordoned") {
		if _, err := c.r.Reconcile(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		c.agents()
	}
	c.must(c.api.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}))
	c.must(c.api.Delete(t.Context(), c.get("os")))
	if _, err := c.r.Reconcile(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	if got := c.nodes(); got != "n1 a" {
		t.Error(got)
	}
	u := &v1alpha1.NodeOpUpgrade{}
	if err := c.api.Get(t.Context(), q.NamespacedName, u); !apierrors.IsNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
	var n corev1.Node
	c.must(c.api.Get(t.Context(), client.ObjectKey{Name: "n1"}, &n))
	if _, ok := n.Annotations[v1alpha1.AnnotationRecord]; ok {
		t.Error("its record is still there")
	}
}

func TestNothingToChooseAndBadSpec(t *testing.T) {
	c := newCluster(t, 1)
	c.create("nobody", func(u *v1alpha1.NodeOpUpgrade) {
		u.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"no": "body"}}
	})
	c.create("bad", func(u *v1alpha1.NodeOpUpgrade) {
		u.Spec.Windows = []v1alpha1.Window{
			{Start: "01:00", Duration: metav1.Duration{Duration: time.Hour}, TimeZone: "Nowhere"},
		}
	})
	for range 3 {
		for _, name := range []string{"nobody", "bad"} {
			q := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: name}}
			if _, err := c.r.Reconcile(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.want("nobody", v1alpha1.PhasePending, "0/0 blessed")
	if s := c.get("bad").Status; !strings.Contains(s.Message, "windows[0].timeZone") {
		t.Errorf("%+v", s)
	}
}
