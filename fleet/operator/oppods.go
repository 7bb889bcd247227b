package operator

import (
	"context"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/nodeop"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

const (
	opContainer        = "nodeop"
	preflightContainer = "preflight"
	hostVolume         = "host-root"
	hostEnv            = "HOST_DIR" // hostMountPath, as the Kairos project's containers have it
	hostMountPath      = "/host"
	opImage            = "busybox:latest"
	jobTries           = 6 // as a Job without backoffLimit
	// annotationName is the NodeOp of a Job's pod, whose owner is the Job.
	annotationName = "operator.kairos.io/name"
)

// jobFor is the Job that runs a NodeOp's command on a node. Its name follows from both, so that it is there once.
func (r *ops) jobFor(op *v1alpha1.NodeOp, n rollout.Node) *batchv1.Job {
	yes, tries := true, int32(jobTries)
	if op.Spec.BackoffLimit != nil {
		tries = *op.Spec.BackoffLimit
	}
	spec := r.onNode(op, n.Name, corev1.Container{
		Name: opContainer, Image: r.image(op.Spec.Image), Command: op.Spec.Command,
		SecurityContext: &corev1.SecurityContext{Privileged: &yes},
		// Why a command has failed is what it said last.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}, false)
	spec.RestartPolicy = corev1.RestartPolicyNever
	labels := opLabels(op, n.Name)
	labels[v1alpha1.LabelStep] = string(v1alpha1.StepRunning)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: op.Namespace, Name: jobName(op, n.Name), Labels: opLabels(op, n.Name),
			OwnerReferences: []metav1.OwnerReference{opOwner(op)},
		},
		Spec: batchv1.JobSpec{
			BackoffLimit: &tries,
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{
					Labels: labels, Annotations: map[string]string{annotationName: op.Name},
				},
				Spec: spec,
			},
		},
	}
}

// preflightPod is the pod of a NodeOp's preflight on a node: not privileged, and it changes nothing there.
func (r *ops) preflightPod(op *v1alpha1.NodeOp, n rollout.Node) *corev1.Pod {
	p := op.Spec.Preflight
	image := p.Image
	if image == "" {
		image = r.image(op.Spec.Image)
	}
	deadline := int64(nodeop.PreflightDeadline(op.Spec) / time.Second)
	spec := r.onNode(op, n.Name, corev1.Container{
		Name: preflightContainer, Image: image, Command: p.Command,
		TerminationMessagePolicy: corev1.TerminationMessageReadFile, // what it logs is no reason to leave the node out
	}, true)
	spec.RestartPolicy, spec.ActiveDeadlineSeconds = corev1.RestartPolicyOnFailure, &deadline
	labels, id := opLabels(op, n.Name), rollout.HelperID(*n.Op)
	labels[v1alpha1.LabelPreflight] = "true"
	labels[v1alpha1.LabelStep] = string(v1alpha1.StepPreflight)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: op.Namespace, Name: podName(op.Name, n.Name, id), Labels: labels,
			Annotations: map[string]string{
				annotationHelper: id, annotationSince: n.Op.Since.UTC().Format(time.RFC3339),
			},
			OwnerReferences: []metav1.OwnerReference{opOwner(op)},
		},
		Spec: spec,
	}
}

// onNode is a pod with one container on a node, which has the node's root file system. It goes around the scheduler.
func (r *ops) onNode(op *v1alpha1.NodeOp, node string, c corev1.Container, readOnly bool) corev1.PodSpec {
	at := op.Spec.HostMountPath
	if at == "" {
		at = hostMountPath
	}
	c.Env = []corev1.EnvVar{{Name: hostEnv, Value: at}}
	c.VolumeMounts = []corev1.VolumeMount{{Name: hostVolume, MountPath: at, ReadOnly: readOnly}}
	return corev1.PodSpec{
		NodeName:         node,
		ImagePullSecrets: op.Spec.ImagePullSecrets,
		Tolerations:      []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Containers:       []corev1.Container{c},
		Volumes: []corev1.Volume{{
			Name:         hostVolume,
			VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}},
		}},
	}
}

func (r *ops) image(named string) string {
	for _, image := range []string{named, r.OpImage} {
		if image != "" {
			return image
		}
	}
	return opImage
}

func jobName(op *v1alpha1.NodeOp, node string) string {
	// A Job's name is a label of its pods, and part of their names.
	name := strings.ReplaceAll(op.Name+"-"+node, ".", "-")
	return truncated(name, 52) + "-" + hash(rollout.Key(op) + " " + node)[:10]
}

func opOwner(op *v1alpha1.NodeOp) metav1.OwnerReference {
	return *metav1.NewControllerRef(op, v1alpha1.GroupVersion.WithKind("NodeOp"))
}

func opLabels(op *v1alpha1.NodeOp, node string) map[string]string {
	return map[string]string{v1alpha1.LabelNodeOp: labelValue(op.Name), v1alpha1.LabelNode: labelValue(node)}
}

// opOfPod returns the NodeOp of a Job's pod.
func opOfPod(_ context.Context, p client.Object) []reconcile.Request {
	name := p.GetAnnotations()[annotationName]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: p.GetNamespace(), Name: name}}}
}

// job reads the Job of a node.
func (h *have) job(node string) *nodeop.Job {
	j := h.jobs[labelValue(node)]
	if j == nil {
		return nil
	}
	return jobOf(j, h.jobPods[j.Name])
}

func jobOf(j *batchv1.Job, pods []*corev1.Pod) *nodeop.Job {
	out := &nodeop.Job{Name: j.Name}
	said := ""
	var last metav1.Time
	for _, p := range pods {
		for _, c := range p.Status.ContainerStatuses {
			switch t := c.State.Terminated; {
			case c.Name != opContainer:
			case t != nil && t.ExitCode != 0 && strings.TrimSpace(t.Message) != "" && !t.FinishedAt.Before(&last):
				said, last = ": "+strings.TrimSpace(t.Message), t.FinishedAt
			case t == nil && p.Status.Phase == corev1.PodPending && p.DeletionTimestamp.IsZero():
				out.Waiting, out.Since = waiting(c), p.CreationTimestamp.Time
			}
		}
	}
	for _, c := range j.Status.Conditions {
		switch {
		case c.Status != corev1.ConditionTrue:
		case c.Type == batchv1.JobComplete:
			out.Complete = true
		case c.Type == batchv1.JobFailed:
			out.Failed = "it failed"
			if why := strings.TrimSpace(c.Message); why != "" {
				out.Failed = why
			}
			out.Failed += said
		}
	}
	return out
}

// preflight reads the preflight's pod of a node.
func (h *have) preflight(node string) *nodeop.Preflight {
	for _, p := range h.pods {
		if p.Labels[v1alpha1.LabelPreflight] == "true" && p.Labels[v1alpha1.LabelNode] == labelValue(node) {
			return preflightOf(p)
		}
	}
	return nil
}

func preflightOf(p *corev1.Pod) *nodeop.Preflight {
	out := &nodeop.Preflight{Ended: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed}
	if p.Status.Phase == corev1.PodFailed {
		out.Failed = strings.Trim(p.Status.Reason+": "+p.Status.Message, ": ")
	}
	for _, c := range p.Status.ContainerStatuses {
		t := c.State.Terminated
		switch {
		case c.Name != preflightContainer:
		case t == nil:
			out.Waiting = waiting(c)
		case p.Status.Phase == corev1.PodSucceeded:
			out.Skip = strings.TrimSpace(t.Message)
		case out.Failed == "":
			out.Failed = strings.Trim(t.Reason+": "+strings.TrimSpace(t.Message), ": ")
		}
	}
	if p.Status.Phase == corev1.PodFailed && out.Failed == "" {
		out.Failed = "its pod failed"
	}
	return out
}

// helper reads the pod that restarts a node.
func (h *have) helper(node, id string) *rollout.Helper {
	for _, p := range h.pods {
		if p.Labels[v1alpha1.LabelNode] == labelValue(node) && p.Annotations[annotationHelper] == id {
			return helperOf(p)
		}
	}
	return nil
}
