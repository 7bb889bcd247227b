package operator

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

// upgrades carries out NodeOpUpgrades.
type upgrades struct{ base }

func newUpgrades(b base) *upgrades {
	b.record, b.of = v1alpha1.AnnotationRecord, func(n rollout.Node) *v1alpha1.NodeRecord { return n.Record }
	b.action, b.steps = "Rollout", steps
	return &upgrades{b}
}

// Reconcile looks at one NodeOpUpgrade, and does what is to be done next.
func (r *upgrades) Reconcile(ctx context.Context, q reconcile.Request) (out reconcile.Result, err error) {
	u := &v1alpha1.NodeOpUpgrade{}
	if err := r.Get(ctx, q.NamespacedName, u); err != nil {
		forget(rolloutNodes, q.NamespacedName)
		return out, client.IgnoreNotFound(err)
	}
	if !u.DeletionTimestamp.IsZero() {
		forget(rolloutNodes, q.NamespacedName)
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
	nodes, err := r.chosen(ctx, u, u.Spec.NodeSelector)
	if err != nil {
		return out, r.refuse(ctx, u, err)
	}
	held, err := r.held(ctx)
	if err != nil {
		return out, err
	}
	busy, err := r.busy(ctx, u, held)
	if err != nil {
		return out, err
	}
	d, err := rollout.Decide(rollout.Input{
		Now: r.Now(), Upgrade: u, Nodes: nodes, Busy: busy, Held: held,
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
func (r *upgrades) active(ctx context.Context) ([]client.ObjectKey, error) {
	all, err := r.rollouts(ctx)
	keys := make([]client.ObjectKey, len(all))
	for i := range all {
		keys[i] = client.ObjectKeyFromObject(&all[i])
	}
	return keys, err
}

// busy says which nodes are another object's: of the rollouts that choose a node, the oldest one that is not over has
// it; a NodeOp has one that it has in work.
func (r *upgrades) busy(
	ctx context.Context,
	u *v1alpha1.NodeOpUpgrade,
	held func(rollout.Node) string,
) (func(rollout.Node) string, error) {
	all, err := r.rollouts(ctx)
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
		return held(n)
	}, nil
}

// act does what was decided for a node.
func (r *upgrades) act(ctx context.Context, u *v1alpha1.NodeOpUpgrade, n rollout.Node, a rollout.Act) error {
	if a.Record != nil || a.Cordon || a.Uncordon {
		if err := r.write(ctx, u, n, a, false); err != nil {
			return err
		}
	}
	if a.Drain && n.Cordoned {
		d, err := r.evict(ctx, n.Name, u.Spec.DrainOptions)
		if err != nil {
			return err
		}
		if next := rollout.AfterDrain(r.Now(), u, n, d); next.Record != nil {
			return r.write(ctx, u, n, next, false)
		}
	}
	if a.Helper == nil {
		return nil
	}
	pod := r.helperPod(*metav1.NewControllerRef(u, v1alpha1.GroupVersion.WithKind("NodeOpUpgrade")),
		metav1.ObjectMeta{
			Namespace: u.Namespace, Labels: map[string]string{v1alpha1.LabelUpgrade: labelValue(u.Name)},
		}, u.Spec.ImagePullSecrets, n.Name, n.Record.Since, *a.Helper)
	return ignoreExists(r.Create(ctx, pod))
}

// status writes the status, where it has changed.
func (r *upgrades) status(ctx context.Context, u *v1alpha1.NodeOpUpgrade, s v1alpha1.NodeOpUpgradeStatus) error {
	count(client.ObjectKeyFromObject(u), s.Nodes)
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
	if !ofSpec(ctx, err) {
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
	if ptr.Deref(u.Spec.Debug, false) {
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

// ofSpec says whether an error is about what the spec says, and not the API server's.
func ofSpec(ctx context.Context, err error) bool {
	status := apierrors.APIStatus(nil)
	return !errors.As(err, &status) && ctx.Err() == nil
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
