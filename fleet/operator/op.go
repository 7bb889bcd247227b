package operator

import (
	"context"
	"errors"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/nodeop"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

// ops carries out NodeOps.
type ops struct {
	base
	// live reads from the API server itself: a Job that is not in the cache may only not have come there yet.
	live client.Reader
}

func newOps(b base, live client.Reader) *ops {
	b.record, b.of = v1alpha1.AnnotationOp, func(n rollout.Node) *v1alpha1.NodeRecord { return n.Op }
	b.action, b.steps = "NodeOp", opSteps
	return &ops{b, live}
}

// Reconcile looks at one NodeOp, and does what is to be done next.
func (r *ops) Reconcile(ctx context.Context, q reconcile.Request) (out reconcile.Result, err error) {
	op := &v1alpha1.NodeOp{}
	if err := r.Get(ctx, q.NamespacedName, op); err != nil {
		forget(opNodes, q.NamespacedName)
		return out, client.IgnoreNotFound(err)
	}
	if !op.DeletionTimestamp.IsZero() {
		forget(opNodes, q.NamespacedName)
		return out, r.release(ctx, op)
	}
	have, err := r.have(ctx, op)
	if err != nil {
		return out, err
	}
	if nodeop.Over(op) {
		return out, r.remove(ctx, have, nil)
	}
	if controllerutil.AddFinalizer(op, finalizer) {
		return out, r.Update(ctx, op) // which comes back here
	}
	nodes, err := r.chosen(ctx, op, op.Spec.NodeSelector)
	if err != nil {
		return out, r.refuse(ctx, op, err)
	}
	busy, err := r.busy(ctx, op)
	if err != nil {
		return out, err
	}
	byName := map[string]rollout.Node{}
	for _, n := range nodes {
		byName[n.Name] = n
		if err := r.lookAgain(ctx, op, n, have); err != nil {
			return out, err
		}
	}
	d := nodeop.Decide(nodeop.Input{
		Now: r.Now(), Op: op, Nodes: nodes, Busy: busy,
		Preflight: have.preflight, Job: have.job, Helper: have.helper,
	})
	var failed []error
	for _, a := range d.Acts {
		if err := r.act(ctx, op, byName[a.Node], a); err != nil {
			failed = append(failed, fmt.Errorf("node %s: %w", a.Node, err))
		}
	}
	if len(failed) == 0 { // else the status would say what is not so
		failed = append(failed, r.status(ctx, op, d.Status))
	}
	failed = append(failed, r.remove(ctx, have, byName))
	if err := errors.Join(failed...); err != nil {
		return reconcile.Result{}, err // which is tried again, with growing pauses
	}
	out.RequeueAfter = d.After
	return out, nil
}

// active returns the NodeOps that are not over.
func (r *ops) active(ctx context.Context) ([]client.ObjectKey, error) {
	all, err := r.ops(ctx)
	keys := make([]client.ObjectKey, len(all))
	for i := range all {
		keys[i] = client.ObjectKeyFromObject(&all[i])
	}
	return keys, err
}

// busy says which nodes are another object's: a rollout's that does something there, or another NodeOp's, which has
// the node until its status says how it has ended. What waits for its turn to be cordoned holds up nobody.
func (r *ops) busy(ctx context.Context, op *v1alpha1.NodeOp) (func(rollout.Node) string, error) {
	rollouts, err := r.rollouts(ctx)
	if err != nil {
		return nil, err
	}
	others, err := r.ops(ctx)
	if err != nil {
		return nil, err
	}
	upgrades, byKey := map[string]string{}, map[string]*v1alpha1.NodeOp{}
	for i := range rollouts {
		upgrades[rollout.Key(&rollouts[i])] = "NodeOpUpgrade " + rollouts[i].Namespace + "/" + rollouts[i].Name
	}
	for i := range others {
		if others[i].UID != op.UID {
			byKey[rollout.Key(&others[i])] = &others[i]
		}
	}
	return func(n rollout.Node) string {
		if n.Record != nil && !n.Record.Step.Ended() && n.Record.Step != v1alpha1.StepStaged {
			if by := upgrades[n.Record.Rollout]; by != "" {
				return by
			}
		}
		if n.Op == nil {
			return ""
		}
		o, ok := byKey[n.Op.Rollout]
		if !ok || n.Op.Step.Ended() && nodeop.Noted(o, n.Name) {
			return ""
		}
		return "NodeOp " + o.Namespace + "/" + o.Name
	}, nil
}

// act does what was decided for a node.
func (r *ops) act(ctx context.Context, op *v1alpha1.NodeOp, n rollout.Node, a nodeop.Act) error {
	if a.RemoveJob {
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: op.Namespace, Name: jobName(op, n.Name)}}
		err := r.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	if a.Record != nil || a.Forget || a.Cordon || a.Uncordon {
		if err := r.write(ctx, op, n, a.Act, a.Forget); err != nil {
			return err
		}
	}
	if a.Drain && n.Cordoned {
		d, err := r.evict(ctx, n.Name, op.Spec.DrainOptions)
		if err != nil {
			return err
		}
		if next := nodeop.AfterDrain(r.Now(), op, n, d); next.Record != nil {
			return r.write(ctx, op, n, next.Act, false)
		}
	}
	switch {
	case a.Preflight:
		return ignoreExists(r.Create(ctx, r.preflightPod(op, n)))
	case a.Job:
		return ignoreExists(r.Create(ctx, r.jobFor(op, n)))
	case a.Helper != nil:
		labels := opLabels(op, n.Name)
		labels[v1alpha1.LabelReboot] = "true"
		meta := metav1.ObjectMeta{Namespace: op.Namespace, Labels: labels}
		return ignoreExists(r.Create(ctx, r.helperPod(opOwner(op), meta, op.Spec.ImagePullSecrets, n.Name,
			n.Op.Since, *a.Helper)))
	}
	return nil
}

// status writes the status, where it has changed.
func (r *ops) status(ctx context.Context, op *v1alpha1.NodeOp, s v1alpha1.NodeOpStatus) error {
	countOp(client.ObjectKeyFromObject(op), s.Nodes)
	s.LastUpdated = op.Status.LastUpdated
	if equality.Semantic.DeepEqual(s, op.Status) {
		return nil
	}
	s.LastUpdated = metav1.NewTime(r.Now())
	op.Status = s
	return r.Status().Update(ctx, op)
}

// refuse says in the status what is wrong with the spec. Errors of the API server are not that.
func (r *ops) refuse(ctx context.Context, op *v1alpha1.NodeOp, err error) error {
	if !ofSpec(ctx, err) {
		return err
	}
	s := *op.Status.DeepCopy()
	s.Phase, s.Message, s.ObservedGeneration = v1alpha1.PhasePending, "spec: "+err.Error(), op.Generation
	return r.status(ctx, op, s)
}

// have is what is there of a NodeOp, by the label of its node.
type have struct {
	pods    []*corev1.Pod // but for those of Jobs
	jobs    map[string]*batchv1.Job
	jobPods map[string][]*corev1.Pod // by their Job's name
}

func (r *ops) have(ctx context.Context, op *v1alpha1.NodeOp) (*have, error) {
	in, of := client.InNamespace(op.Namespace), client.MatchingLabels{v1alpha1.LabelNodeOp: labelValue(op.Name)}
	h := &have{jobs: map[string]*batchv1.Job{}, jobPods: map[string][]*corev1.Pod{}}
	var jobs batchv1.JobList
	var pods corev1.PodList
	if err := errors.Join(r.List(ctx, &jobs, in, of), r.List(ctx, &pods, in, of)); err != nil {
		return nil, err
	}
	for i := range jobs.Items {
		if j := &jobs.Items[i]; metav1.IsControlledBy(j, op) {
			h.jobs[j.Labels[v1alpha1.LabelNode]] = j
		}
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if job := p.Labels[batchv1.JobNameLabel]; job != "" {
			h.jobPods[job] = append(h.jobPods[job], p)
		} else if metav1.IsControlledBy(p, op) {
			h.pods = append(h.pods, p)
		}
	}
	return h, nil
}

// lookAgain asks the API server for a Job that has been seen and is not in the cache.
func (r *ops) lookAgain(ctx context.Context, op *v1alpha1.NodeOp, n rollout.Node, h *have) error {
	if n.Op == nil || n.Op.Rollout != rollout.Key(op) || n.Op.Step != v1alpha1.StepRunning ||
		h.jobs[labelValue(n.Name)] != nil {
		return nil
	}
	var j batchv1.Job
	err := r.live.Get(ctx, client.ObjectKey{Namespace: op.Namespace, Name: jobName(op, n.Name)}, &j)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	}
	h.jobs[labelValue(n.Name)] = &j
	return nil
}

// remove removes pods of steps that are done, and in the end, where nodes is nil, all but those of Jobs. Jobs stay as
// long as their NodeOp: they and their logs are what people look at. One that is to run on a node that is gone goes.
func (r *ops) remove(ctx context.Context, h *have, nodes map[string]rollout.Node) error {
	var failed []error
	for _, p := range h.pods {
		if n, ok := nodes[p.Spec.NodeName]; nodes == nil || !ok || outdated(p, n.Op) {
			failed = append(failed, client.IgnoreNotFound(r.Delete(ctx, p)))
		}
	}
	for _, j := range h.jobs {
		name := j.Spec.Template.Spec.NodeName
		if _, ok := nodes[name]; ok || j.Status.CompletionTime != nil || jobOf(j, nil).Failed != "" {
			continue
		}
		if err := r.Get(ctx, client.ObjectKey{Name: name}, &corev1.Node{}); apierrors.IsNotFound(err) {
			err = r.Delete(ctx, j, client.PropagationPolicy(metav1.DeletePropagationBackground))
			failed = append(failed, client.IgnoreNotFound(err))
		}
	}
	return errors.Join(failed...)
}
