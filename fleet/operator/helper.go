package operator

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

const (
	helperContainer = "kairos-apply"
	// annotationHelper is a pod's [rollout.HelperID], annotationSince when the step that it is for began.
	annotationHelper = "operator.kairos.io/helper"
	annotationSince  = "operator.kairos.io/since"
)

// helperPod is the pod that carries out an order on a node for an object. Its name follows from what it is for, so
// that it is there once however often it is created. It goes around the scheduler: the node may be cordoned.
func (r *base) helperPod(
	owner metav1.OwnerReference,
	meta metav1.ObjectMeta,
	secrets []corev1.LocalObjectReference,
	node string,
	since metav1.Time,
	o rollout.Order,
) *corev1.Pod {
	yes, no := true, false
	deadline := int64(o.Deadline / time.Second)
	args := append([]string{"helper", "--"}, o.Args...)
	if o.Reboot != "" {
		args = []string{"restart", o.Reboot}
	}
	meta.Name = podName(owner.Name, node, o.ID)
	meta.Labels[v1alpha1.LabelNode] = labelValue(node)
	meta.Labels[v1alpha1.LabelStep] = string(o.Step)
	meta.Annotations = map[string]string{annotationHelper: o.ID, annotationSince: since.UTC().Format(time.RFC3339)}
	meta.OwnerReferences = []metav1.OwnerReference{owner}
	return &corev1.Pod{
		ObjectMeta: meta,
		Spec: corev1.PodSpec{
			NodeName:                     node,
			HostPID:                      true,
			HostNetwork:                  true, // as the node reaches its registries
			RestartPolicy:                corev1.RestartPolicyNever,
			ActiveDeadlineSeconds:        &deadline,
			AutomountServiceAccountToken: &no,
			ImagePullSecrets:             secrets,
			Tolerations:                  []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers: []corev1.Container{{
				Name:            helperContainer,
				Image:           r.HelperImage,
				Args:            args,
				SecurityContext: &corev1.SecurityContext{Privileged: &yes},
			}},
		},
	}
}

// podName is the name of an object's pod on a node for a step.
func podName(object, node, id string) string {
	return fmt.Sprintf("%s-%s-%s", truncated(object, 40), hash(node)[:8], id)
}

// helperOf reads a helper pod.
func helperOf(p *corev1.Pod) *rollout.Helper {
	h := &rollout.Helper{Ended: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed}
	for _, c := range p.Status.ContainerStatuses {
		switch {
		case c.Name != helperContainer:
		case c.State.Terminated != nil:
			h.Ended = true
			if report, err := v1alpha1.ParseHelperReport(c.State.Terminated.Message); err == nil {
				h.Report = &report
			}
		default:
			h.Waiting = waiting(c)
		}
	}
	return h
}

// waiting says why a container does not run yet, where that is known.
func waiting(c corev1.ContainerStatus) string {
	switch w := c.State.Waiting; {
	case w != nil && w.Message != "":
		return w.Reason + ": " + w.Message
	case w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing":
		return w.Reason
	}
	return ""
}

// outdated says whether a pod is for a step before the one that a record is at. A record that was read before the pod
// was made says nothing about it.
func outdated(p *corev1.Pod, r *v1alpha1.NodeRecord) bool {
	since, err := time.Parse(time.RFC3339, p.Annotations[annotationSince])
	if err != nil || r == nil {
		return false
	}
	return since.Before(r.Since.Time) && p.Annotations[annotationHelper] != rollout.HelperID(*r)
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// labelValue is a name as the value of a label: itself, or where it is longer than a label may be, a hash of it.
func labelValue(name string) string {
	if len(name) <= 63 {
		return name
	}
	return hash(name)[:63]
}

// truncated is a name's beginning, with a hash where something is left out.
func truncated(name string, n int) string {
	if len(name) <= n {
		return strings.TrimRight(name, "-.")
	}
	return strings.TrimRight(name[:n-9], "-.") + "-" + hash(name)[:8]
}
