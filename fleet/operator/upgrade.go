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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

// finalizer keeps a NodeOpUpgrade until the nodes that it has cordoned are uncordoned.
const finalizer = "operator.kairos.io/cordon"

// upgrades carries out NodeOpUpgrades.
type upgrades struct {
	Options
	client.Client
	scheme *runtime.Scheme
	events events.EventRecorder
	evict  func(ctx context.Context, node string, o *v1alpha1.DrainOptions) (rollout.Drain, error)
}

// Reconcile looks at one NodeOpUpgrade, and does what is to be done next.
func (r *upgrades) Reconcile(ctx context.Context, q reconcile.Request) (out reconcile.Result, err error) {
	u := &v1alpha1.NodeOpUpgrade{}
	if err := r.Get(ctx, q.NamespacedName, u); err != nil {
		forget(q.NamespacedName)
		return out, client.IgnoreNotFound(err)
	}
	if !u.DeletionTimestamp.IsZero() {
		forget(q.NamespacedName)
		return out, r.release(ctx, u)
	}
	helpers, err := r.helpers(ctx, u)
	if err != nil {
		return out, err
	}
	if rollout.Over(u) {
		return out, r.remove(ctx, u, helpers, nil)
	}
	if controllerutil.AddFinalizer(u, finalizer) {
		return out, r.Update(ctx, u) // which comes back here
	}
	nodes, err := r.chosen(ctx, u)
	if err != nil {
		return out, r.refuse(ctx, u, err)
	}
	busy, err := r.busy(ctx, u)
	if err != nil {
		return out, err
	}
	d, err := rollout.Decide(rollout.Input{
		Now: r.Now(), Upgrade: u, Nodes: nodes, Busy: busy,
		Helper: func(node, id string) *rollout.Helper {
			for _, p := range helpers[labelValue(node)] {
				if p.Annotations[annotationHelper] == id {
					return helperOf(p)
				}
			}
			return nil
		},
	})
	if err != nil {
		return out, r.refuse(ctx, u, err)
	}
	byName := map[string]rollout.Node{}
	for _, n := range nodes {
		byName[n.Name] = n
	}
	var failed []error
	for _, a := range d.Acts {
		if err := r.act(ctx, u, byName[a.Node], a); err != nil {
			failed = append(failed, fmt.Errorf("node %s: %w", a.Node, err))
		}
	}
	if len(failed) == 0 { // else the status would say what is not so
		failed = append(failed, r.status(ctx, u, d.Status))
	}
	failed = append(failed, r.remove(ctx, u, helpers, byName))
	out.RequeueAfter = d.After
	if err := errors.Join(failed...); err != nil {
		return reconcile.Result{}, err // which is tried again, with growing pauses
	}
	return out, nil
}

// chosen returns the nodes that a rollout is for.
func (r *upgrades) chosen(ctx context.Context, u *v1alpha1.NodeOpUpgrade) ([]rollout.Node, error) {
	selector, err := rollout.Selector(u.Spec.NodeSelector)
	if err != nil {
		return nil, fmt.Errorf("nodeSelector: %w", err)
	}
	var list corev1.NodeList
	if err := r.List(ctx, &list, client.MatchingLabelsSelector{Selector: selector},
		client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	nodes := make([]rollout.Node, len(list.Items))
	for i := range list.Items {
		nodes[i] = rollout.NodeOf(&list.Items[i])
	}
	return nodes, nil
}

// helpers returns the helper pods of a rollout, by the label of their node.
func (r *upgrades) helpers(ctx context.Context, u *v1alpha1.NodeOpUpgrade) (map[string][]*corev1.Pod, error) {
	var list corev1.PodList
	err := r.List(ctx, &list, client.InNamespace(u.Namespace),
		client.MatchingLabels{v1alpha1.LabelUpgrade: labelValue(u.Name)})
	if err != nil {
		return nil, err
	}
	byNode := map[string][]*corev1.Pod{}
	for i := range list.Items {
		if p := &list.Items[i]; metav1.IsControlledBy(p, u) {
			node := p.Labels[v1alpha1.LabelNode]
			byNode[node] = append(byNode[node], p)
		}
	}
	return byNode, nil
}

// active returns the rollouts that are not over.
func (r *upgrades) active(ctx context.Context) ([]v1alpha1.NodeOpUpgrade, error) {
	var list v1alpha1.NodeOpUpgradeList
	if err := r.List(ctx, &list); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(u v1alpha1.NodeOpUpgrade) bool {
		return rollout.Over(&u) && u.DeletionTimestamp.IsZero()
	}), nil
}

// busy says which nodes are another rollout's: of those that choose a node, the oldest one that is not over has it.
func (r *upgrades) busy(ctx context.Context, u *v1alpha1.NodeOpUpgrade) (func(rollout.Node) string, error) {
	all, err := r.active(ctx)
	if err != nil {
		return nil, err
	}
	type other struct {
		name     string
		selector labels.Selector
		before   bool
	}
	others := map[string]other{}
	for _, o := range all {
		if o.UID == u.UID || !o.DeletionTimestamp.IsZero() {
			continue
		}
		s, err := rollout.Selector(o.Spec.NodeSelector)
		if err != nil {
			s = labels.Nothing() // it is refused
		}
		before := o.CreationTimestamp.Before(&u.CreationTimestamp) ||
			o.CreationTimestamp.Equal(&u.CreationTimestamp) && o.UID < u.UID
		others[rollout.Key(&o)] = other{"NodeOpUpgrade " + o.Namespace + "/" + o.Name, s, before}
	}
	return func(n rollout.Node) string {
		if n.Record != nil && !n.Record.Step.Ended() {
			if o, ok := others[n.Record.Rollout]; ok {
				return o.name
			}
		}
		for _, o := range others {
			if o.before && o.selector.Matches(labels.Set(n.Labels)) {
				return o.name
			}
		}
		return ""
	}, nil
}

// act does what was decided for a node.
func (r *upgrades) act(ctx context.Context, u *v1alpha1.NodeOpUpgrade, n rollout.Node, a rollout.Act) error {
	if a.Record != nil || a.Cordon || a.Uncordon {
		if err := r.write(ctx, u, a); err != nil {
			return err
		}
	}
	if a.Drain && n.Cordoned {
		d, err := r.evict(ctx, n.Name, u.Spec.DrainOptions)
		if err != nil {
			return err
		}
		if next := rollout.AfterDrain(r.Now(), u, n, d); next.Record != nil {
			return r.write(ctx, u, next)
		}
	}
	if a.Helper == nil {
		return nil
	}
	err := r.Create(ctx, r.helperPod(u, n, *a.Helper))
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// write changes a Node in one write, unless somebody else has since it was read: what was decided may be wrong then.
func (r *upgrades) write(ctx context.Context, u *v1alpha1.NodeOpUpgrade, a rollout.Act) error {
	var n corev1.Node
	if err := r.Get(ctx, client.ObjectKey{Name: a.Node}, &n); err != nil {
		return client.IgnoreNotFound(err)
	}
	before := n.DeepCopy()
	if n.Annotations == nil {
		n.Annotations = map[string]string{}
	}
	was, err := v1alpha1.ParseRecord(n.Annotations)
	if err != nil {
		was = nil
	}
	if a.Record != nil {
		n.Annotations[v1alpha1.AnnotationRecord] = a.Record.String()
	}
	switch {
	case a.Cordon && (!n.Spec.Unschedulable || n.Annotations[v1alpha1.AnnotationCordonedBy] != ""):
		// A cordon of a rollout that is over is taken over; a person's stays a person's.
		n.Spec.Unschedulable = true
		n.Annotations[v1alpha1.AnnotationCordonedBy] = rollout.Key(u)
	case a.Uncordon && n.Annotations[v1alpha1.AnnotationCordonedBy] == rollout.Key(u):
		n.Spec.Unschedulable = false
		delete(n.Annotations, v1alpha1.AnnotationCordonedBy)
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Patch(ctx, &n, patch); err != nil {
		return client.IgnoreNotFound(err)
	}
	if a.Record != nil && (was == nil || was.Rollout != a.Record.Rollout || was.Step != a.Record.Step ||
		was.Attempt != a.Record.Attempt) {
		r.tell(u, a)
	}
	return nil
}

// tell makes an event and counts.
func (r *upgrades) tell(u *v1alpha1.NodeOpUpgrade, a rollout.Act) {
	kind, text := corev1.EventTypeNormal, "node "+a.Node
	if a.Record.Reason != "" {
		text += ": " + a.Record.Reason
	}
	if a.Record.Step == v1alpha1.StepFellBack || a.Record.Step == v1alpha1.StepFailed || a.Record.Attempt > 0 {
		kind = corev1.EventTypeWarning
	}
	r.events.Eventf(u, nil, kind, string(a.Record.Step), "Rollout", "%s", text)
	steps.WithLabelValues(string(a.Record.Step)).Inc()
}

// status writes the status, where it has changed.
func (r *upgrades) status(ctx context.Context, u *v1alpha1.NodeOpUpgrade, s v1alpha1.NodeOpUpgradeStatus) error {
	count(client.ObjectKeyFromObject(u), s)
	s.LastUpdated = u.Status.LastUpdated
	if equality.Semantic.DeepEqual(s, u.Status) {
		return nil
	}
	s.LastUpdated = metav1.NewTime(r.Now())
	u.Status = s
	return r.Status().Update(ctx, u)
}

// refuse says in the status what is wrong with the spec. Errors of the API server are not that.
func (r *upgrades) refuse(ctx context.Context, u *v1alpha1.NodeOpUpgrade, err error) error {
	if status := apierrors.APIStatus(nil); errors.As(err, &status) || ctx.Err() != nil {
		return err
	}
	s := *u.Status.DeepCopy()
	s.Phase, s.Message, s.ObservedGeneration = v1alpha1.PhasePending, "spec: "+err.Error(), u.Generation
	return r.status(ctx, u, s)
}

// remove removes helper pods that are not needed any more: those of steps that are done, and in the end, where nodes
// is nil, all. With spec.debug they stay.
func (r *upgrades) remove(
	ctx context.Context,
	u *v1alpha1.NodeOpUpgrade,
	helpers map[string][]*corev1.Pod,
	nodes map[string]rollout.Node,
) error {
	if u.Spec.Debug != nil && *u.Spec.Debug {
		return nil
	}
	var failed []error
	for _, pods := range helpers {
		for _, p := range pods {
			n, ok := nodes[p.Spec.NodeName]
			if nodes == nil || !ok || outdated(p, n.Record) {
				failed = append(failed, client.IgnoreNotFound(r.Delete(ctx, p)))
			}
		}
	}
	return errors.Join(failed...)
}

// release uncordons the nodes that a rollout which is deleted has cordoned, and takes its records back. A node that is
// on its way to a release arrives there, or falls back, by itself.
func (r *upgrades) release(ctx context.Context, u *v1alpha1.NodeOpUpgrade) error {
	if !controllerutil.ContainsFinalizer(u, finalizer) {
		return nil
	}
	var list corev1.NodeList
	if err := r.List(ctx, &list); err != nil {
		return err
	}
	key := rollout.Key(u)
	for i := range list.Items {
		n := &list.Items[i]
		before := n.DeepCopy()
		if n.Annotations[v1alpha1.AnnotationCordonedBy] == key {
			n.Spec.Unschedulable = false
			delete(n.Annotations, v1alpha1.AnnotationCordonedBy)
		}
		if record, err := v1alpha1.ParseRecord(n.Annotations); err == nil && record != nil && record.Rollout == key {
			delete(n.Annotations, v1alpha1.AnnotationRecord)
		}
		if equal(n, before) {
			continue
		}
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
		if err := r.Patch(ctx, n, patch); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	controllerutil.RemoveFinalizer(u, finalizer)
	return client.IgnoreNotFound(r.Update(ctx, u))
}

func equal(a, b *corev1.Node) bool { return equality.Semantic.DeepEqual(a, b) }
