package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/drain"
	"k8s.io/utils/ptr"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

// drainer evicts pods as `kubectl drain` does, but does not wait for them: who asks again finds out.
type drainer struct {
	client kubernetes.Interface
	self   string // namespace/name of the operator's own pod
}

// evict evicts the pods of a node, and returns those that are not gone.
func (d drainer) evict(ctx context.Context, node string, o *v1alpha1.DrainOptions) (rollout.Drain, error) {
	h := &drain.Helper{
		Ctx: ctx, Client: d.client, GracePeriodSeconds: -1, IgnoreAllDaemonSets: true,
		Out: io.Discard, ErrOut: io.Discard,
		AdditionalFilters: []drain.PodFilter{d.keep},
	}
	if o != nil {
		h.Force = ptr.Deref(o.Force, false)
		h.DeleteEmptyDirData = ptr.Deref(o.DeleteEmptyDirData, false)
		h.IgnoreAllDaemonSets = ptr.Deref(o.IgnoreDaemonSets, true)
		if o.GracePeriodSeconds != nil {
			h.GracePeriodSeconds = int(*o.GracePeriodSeconds)
		}
	}
	list, errs := h.GetPodsForDeletion(node)
	if len(errs) > 0 {
		err := errors.Join(errs...)
		if list == nil && ctx.Err() != nil {
			return rollout.Drain{}, err
		}
		return rollout.Drain{Err: err}, nil
	}
	var out rollout.Drain
	for _, pod := range list.Pods() {
		name := pod.Namespace + "/" + pod.Name
		if pod.DeletionTimestamp != nil {
			out.Left = append(out.Left, name+" is ending")
			continue
		}
		switch err := h.EvictPod(pod, policyv1.SchemeGroupVersion); {
		case apierrors.IsNotFound(err):
		case apierrors.IsTooManyRequests(err):
			out.Left = append(out.Left, name+" is held by a PodDisruptionBudget")
		case err != nil:
			out.Left = append(out.Left, fmt.Sprintf("%s: %v", name, err))
		default:
			out.Left = append(out.Left, name+" is ending")
		}
	}
	return out, nil
}

// The label of the operator's pods, see deploy/operator.
const labelName, operatorName = "app.kubernetes.io/name", "kairos-operator"

// keep leaves the operator's own pods where they are: the node's restart ends them, and a cluster of one node would
// have nobody to go on. Any of them, not only this one: they tolerate the cordon, and would come back at once.
func (d drainer) keep(pod corev1.Pod) drain.PodDeleteStatus {
	_, helps := pod.Labels[v1alpha1.LabelStep]
	_, op := pod.Labels[v1alpha1.LabelNodeOp]
	namespace, _, _ := strings.Cut(d.self, "/")
	operator := pod.Namespace == namespace && pod.Labels[labelName] == operatorName
	if helps || op || operator || pod.Namespace+"/"+pod.Name == d.self {
		return drain.MakePodDeleteStatusSkip()
	}
	return drain.MakePodDeleteStatusOkay()
}
