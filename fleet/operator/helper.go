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
	// annotationHelper is a helper pod's [rollout.HelperID], annotationSince when the step that it is for began.
	annotationHelper = "operator.kairos.io/helper"
	annotationSince  = "operator.kairos.io/since"
)

// helperPod is the pod that carries out an order on a node. Its name follows from what it is for, so that it is there
// once however often it is created. It goes around the scheduler: the node may be cordoned.
func (r *upgrades) helperPod(u *v1alpha1.NodeOpUpgrade, n rollout.Node, o rollout.Order) *corev1.Pod {
	yes, no := true, false
	deadline := int64(o.Deadline / time.Second)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: u.Namespace,
			Name:      fmt.Sprintf("%s-%s-%s", truncated(u.Name, 40), hash(n.Name)[:8], o.ID),
			Labels: map[string]string{
				v1alpha1.LabelUpgrade: labelValue(u.Name),
				v1alpha1.LabelNode:    labelValue(n.Name),
				v1alpha1.LabelStep:    string(o.Step),
			},
			Annotations: map[string]string{
				annotationHelper: o.ID,
				annotationSince:  n.Record.Since.UTC().Format(time.RFC3339),
			},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(u,
				v1alpha1.GroupVersion.WithKind("NodeOpUpgrade"))},
		},
		Spec: corev1.PodSpec{
			NodeName:                     n.Name,
			HostPID:                      true,
			HostNetwork:                  true, // as the node reaches its registries
			RestartPolicy:                corev1.RestartPolicyNever,
			ActiveDeadlineSeconds:        &deadline,
			AutomountServiceAccountToken: &no,
			ImagePullSecrets:             u.Spec.ImagePullSecrets,
			Tolerations:                  []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers: []corev1.Container{{
				Name:            helperContainer,
				Image:           r.HelperImage,
				Args:            append([]string{"helper", "--"}, o.Args...),
				SecurityContext: &corev1.SecurityContext{Privileged: &yes},
			}},
		},
	}
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
		case c.State.Waiting != nil && c.State.Waiting.Message != "":
			h.Waiting = c.State.Waiting.Reason + ": " + c.State.Waiting.Message
		case c.State.Waiting != nil && c.State.Waiting.Reason != "ContainerCreating":
			h.Waiting = c.State.Waiting.Reason
		}
	}
	return h
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
