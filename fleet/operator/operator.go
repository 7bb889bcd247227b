// Package operator has the controllers that carry out NodeOpUpgrades and NodeOps: what is to be done is decided by
// packages rollout and nodeop; here objects are read, and what was decided is written. It keeps no state.
package operator

import (
	"context"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// +kubebuilder:rbac:groups=operator.kairos.io,resources=nodeopupgrades,verbs=list;watch;update
// +kubebuilder:rbac:groups=operator.kairos.io,resources=nodeopupgrades/status,verbs=update
// +kubebuilder:rbac:groups=operator.kairos.io,resources=nodeopupgrades/finalizers,verbs=update
// +kubebuilder:rbac:groups=operator.kairos.io,resources=nodeops,verbs=list;watch;update
// +kubebuilder:rbac:groups=operator.kairos.io,resources=nodeops/status,verbs=update
// +kubebuilder:rbac:groups=operator.kairos.io,resources=nodeops/finalizers,verbs=update
// +kubebuilder:rbac:groups=batch,resources=jobs,verbs=get;list;watch;create;delete
// +kubebuilder:rbac:groups="",resources=nodes,verbs=list;watch;patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch;create;delete
// +kubebuilder:rbac:groups="",resources=pods/eviction,verbs=create
// +kubebuilder:rbac:groups=apps,resources=daemonsets,verbs=get
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=kairos-system,resources=leases,verbs=get;create;update

// Options say how the operator runs. HelperImage has to be set.
type Options struct {
	// HelperImage is the image of helper pods: the operator's own.
	HelperImage string
	// OpImage is the image of NodeOps that name none; empty: busybox:latest, as in the Kairos project.
	OpImage string
	// Pod is namespace/name of the operator's own pod; empty where it runs in none.
	Pod string
	// Settle is for how long changes of Nodes are gathered until they are looked at. 0: a second.
	Settle time.Duration
	// Now is the clock; nil: the machine's.
	Now func() time.Time
}

// Scheme has the kinds that the operator reads and writes.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := clientscheme.AddToScheme(s); err != nil {
		return nil, err
	}
	return s, v1alpha1.AddToScheme(s)
}

// Cache says what of a cluster the operator keeps in memory: of pods its own, and of Nodes what it looks at.
func Cache() cache.Options {
	with := func(label string) labels.Selector {
		r, err := labels.NewRequirement(label, selection.Exists, nil)
		if err != nil {
			panic(err) // a constant
		}
		return labels.NewSelector().Add(*r)
	}
	return cache.Options{ByObject: map[client.Object]cache.ByObject{
		&corev1.Pod{}:  {Label: with(v1alpha1.LabelStep)},
		&batchv1.Job{}: {Label: with(v1alpha1.LabelNodeOp)},
		&corev1.Node{}: {Transform: slim},
	}}
}

// slim leaves of a Node what a rollout looks at. Nodes are only ever patched, so nothing else is lost.
func slim(o any) (any, error) {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	n.ManagedFields = nil
	kept := map[string]string{}
	for _, name := range []string{
		v1alpha1.AnnotationReport, v1alpha1.AnnotationRecord, v1alpha1.AnnotationOp, v1alpha1.AnnotationCordonedBy,
	} {
		if v, ok := n.Annotations[name]; ok {
			kept[name] = v
		}
	}
	n.Annotations = kept
	var ready []corev1.NodeCondition
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			ready = append(ready, corev1.NodeCondition{Type: c.Type, Status: c.Status})
		}
	}
	n.Spec = corev1.NodeSpec{Unschedulable: n.Spec.Unschedulable}
	n.Status = corev1.NodeStatus{Conditions: ready, NodeInfo: corev1.NodeSystemInfo{BootID: n.Status.NodeInfo.BootID}}
	return n, nil
}

// Add adds the controllers to a manager.
func Add(m ctrl.Manager, config *rest.Config, o Options) error {
	if o.HelperImage == "" {
		return fmt.Errorf("the image of helper pods is not named")
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Settle == 0 {
		o.Settle = time.Second
	}
	b := base{
		Options: o, Client: m.GetClient(), events: m.GetEventRecorder("kairos-operator"),
		evict: drainer{client: clients, self: o.Pod}.evict,
	}
	u := newUpgrades(b)
	err = ctrl.NewControllerManagedBy(m).
		Named("nodeopupgrade").
		For(&v1alpha1.NodeOpUpgrade{}).
		Owns(&corev1.Pod{}).
		Watches(&corev1.Node{}, b.nodes(u.active)).
		Complete(b.patient(u.Reconcile))
	if err != nil {
		return err
	}
	op := newOps(b, m.GetAPIReader())
	return ctrl.NewControllerManagedBy(m).
		Named("nodeop").
		For(&v1alpha1.NodeOp{}).
		Owns(&corev1.Pod{}).
		Owns(&batchv1.Job{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(opOfPod)).
		Watches(&corev1.Node{}, b.nodes(op.active)).
		Complete(b.patient(op.Reconcile))
}

// patient has objects looked at again that somebody else has written meanwhile. That is no failure, whose pauses
// would grow up to a quarter of an hour where Nodes are written all the time.
func (r *base) patient(do reconcile.Func) reconcile.Func {
	return func(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
		out, err := do(ctx, q)
		if err != nil && onlyConflicts(err) {
			return reconcile.Result{RequeueAfter: r.Settle}, nil
		}
		return out, err
	}
}

func onlyConflicts(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(joined.Unwrap(), func(err error) bool { return !onlyConflicts(err) })
	}
	return apierrors.IsConflict(err)
}

// nodes has all objects of a kind that are not over looked at when a Node changes; changes of many Nodes at once are
// one.
func (r *base) nodes(active func(context.Context) ([]client.ObjectKey, error)) handler.EventHandler {
	enqueue := func(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		all, err := active(ctx)
		if err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "list the objects that are not over")
			return
		}
		for _, key := range all {
			q.AddAfter(reconcile.Request{NamespacedName: key}, r.Settle)
		}
	}
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, _ event.CreateEvent, q queue) { enqueue(ctx, q) },
		DeleteFunc: func(ctx context.Context, _ event.DeleteEvent, q queue) { enqueue(ctx, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			if changed(e.ObjectOld, e.ObjectNew) {
				enqueue(ctx, q)
			}
		},
	}
}

// changed says whether a Node differs in something that the cache keeps: kubelets write it every few minutes.
func changed(before, after client.Object) bool {
	b, ok := before.(*corev1.Node)
	a, ok2 := after.(*corev1.Node)
	if !ok || !ok2 {
		return true
	}
	b, a = b.DeepCopy(), a.DeepCopy()
	a.ResourceVersion = b.ResourceVersion
	return !equal(a, b)
}
