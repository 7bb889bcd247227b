package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/nodeop"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

// finalizer keeps an object until the nodes that it has cordoned are uncordoned.
const finalizer = "operator.kairos.io/cordon"

// base is what the controllers of both kinds do with Nodes.
type base struct {
	Options
	client.Client
	events events.EventRecorder
	evict  func(ctx context.Context, node string, o *v1alpha1.DrainOptions) (rollout.Drain, error)
	// record is the annotation that has this kind's records, and of reads it.
	record string
	of     func(rollout.Node) *v1alpha1.NodeRecord
	// action is what its events are about, and steps counts what nodes come to.
	action string
	steps  *prometheus.CounterVec
}

// chosen returns the nodes that an object is for: those with its labels, and those that it has in work, whatever
// labels these have got meanwhile.
func (r *base) chosen(ctx context.Context, o client.Object, s *metav1.LabelSelector) ([]rollout.Node, error) {
	selector, err := rollout.Selector(s)
	if err != nil {
		return nil, fmt.Errorf("nodeSelector: %w", err)
	}
	var list corev1.NodeList
	if err := r.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var nodes []rollout.Node
	for i := range list.Items {
		n := rollout.NodeOf(&list.Items[i])
		own := r.of(n) != nil && r.of(n).Rollout == rollout.Key(o) && !r.of(n).Step.Ended()
		if own || selector.Matches(labels.Set(n.Labels)) {
			nodes = append(nodes, n)
		}
	}
	return nodes, nil
}

// write changes a Node in one write, unless somebody else has since it was read: what was decided may be wrong then.
func (r *base) write(ctx context.Context, o client.Object, read rollout.Node, a rollout.Act, forget bool) error {
	var n corev1.Node
	if err := r.Get(ctx, client.ObjectKey{Name: a.Node}, &n); err != nil {
		return client.IgnoreNotFound(err)
	}
	if n.ResourceVersion != read.Version {
		return apierrors.NewConflict(corev1.Resource("nodes"), n.Name, errors.New("it has changed since it was read"))
	}
	before := n.DeepCopy()
	if n.Annotations == nil {
		n.Annotations = map[string]string{}
	}
	switch {
	case a.Record != nil:
		n.Annotations[r.record] = a.Record.String()
	case forget:
		delete(n.Annotations, r.record)
	}
	switch key := rollout.Key(o); {
	case a.Cordon && (!n.Spec.Unschedulable || n.Annotations[v1alpha1.AnnotationCordonedBy] != ""):
		// A cordon of an object that is over is taken over; a person's stays a person's.
		n.Spec.Unschedulable = true
		n.Annotations[v1alpha1.AnnotationCordonedBy] = key
	case a.Uncordon && n.Annotations[v1alpha1.AnnotationCordonedBy] == key:
		n.Spec.Unschedulable = false
		delete(n.Annotations, v1alpha1.AnnotationCordonedBy)
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Patch(ctx, &n, patch); err != nil {
		return client.IgnoreNotFound(err)
	}
	was := r.of(read)
	if a.Record != nil && (was == nil || was.Rollout != a.Record.Rollout || was.Step != a.Record.Step ||
		was.Attempt != a.Record.Attempt) {
		r.tell(o, a)
	}
	return nil
}

// tell makes an event and counts.
func (r *base) tell(o client.Object, a rollout.Act) {
	kind, text := corev1.EventTypeNormal, "node "+a.Node
	if a.Record.Reason != "" {
		text += ": " + a.Record.Reason
	}
	if a.Record.Step == v1alpha1.StepFellBack || a.Record.Step == v1alpha1.StepFailed || a.Record.Attempt > 0 {
		kind = corev1.EventTypeWarning
	}
	r.steps.WithLabelValues(string(a.Record.Step)).Inc()
	r.events.Eventf(o, nil, kind, string(a.Record.Step), r.action, "%s", text)
}

// release uncordons the nodes that an object which is deleted has cordoned, and takes its records back. A node that is
// on its way to a release arrives there, or falls back, by itself.
func (r *base) release(ctx context.Context, o client.Object) error {
	if !controllerutil.ContainsFinalizer(o, finalizer) {
		return nil
	}
	var list corev1.NodeList
	if err := r.List(ctx, &list); err != nil {
		return err
	}
	key := rollout.Key(o)
	for i := range list.Items {
		n := &list.Items[i]
		before := n.DeepCopy()
		if n.Annotations[v1alpha1.AnnotationCordonedBy] == key {
			n.Spec.Unschedulable = false
			delete(n.Annotations, v1alpha1.AnnotationCordonedBy)
		}
		if record := r.of(rollout.NodeOf(n)); record != nil && record.Rollout == key {
			delete(n.Annotations, r.record)
		}
		if equal(n, before) {
			continue
		}
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
		if err := r.Patch(ctx, n, patch); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	controllerutil.RemoveFinalizer(o, finalizer)
	return client.IgnoreNotFound(r.Update(ctx, o))
}

func equal(a, b *corev1.Node) bool { return equality.Semantic.DeepEqual(a, b) }

// rollouts returns the NodeOpUpgrades that are not over.
func (r *base) rollouts(ctx context.Context) ([]v1alpha1.NodeOpUpgrade, error) {
	var list v1alpha1.NodeOpUpgradeList
	if err := r.List(ctx, &list); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(u v1alpha1.NodeOpUpgrade) bool {
		return rollout.Over(&u) && u.DeletionTimestamp.IsZero()
	}), nil
}

// ops returns the NodeOps that are not over.
func (r *base) ops(ctx context.Context) ([]v1alpha1.NodeOp, error) {
	var list v1alpha1.NodeOpList
	if err := r.List(ctx, &list); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(op v1alpha1.NodeOp) bool {
		return nodeop.Over(&op) && op.DeletionTimestamp.IsZero()
	}), nil
}

// held says which NodeOp has a node in work.
func (r *base) held(ctx context.Context) (func(rollout.Node) string, error) {
	all, err := r.ops(ctx)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for i := range all {
		names[rollout.Key(&all[i])] = "NodeOp " + all[i].Namespace + "/" + all[i].Name
	}
	return func(n rollout.Node) string {
		if n.Op == nil || n.Op.Step.Ended() {
			return ""
		}
		return names[n.Op.Rollout] // one that is gone holds nothing
	}, nil
}
