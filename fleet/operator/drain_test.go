package operator

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// The operator evicts none of its own pods: they tolerate a cordon, and would come back to the node.
func TestDrainKeeps(t *testing.T) {
	ours := map[string]string{"app.kubernetes.io/name": "kairos-operator"}
	for _, c := range []struct {
		namespace, name string
		labels          map[string]string
		keeps           bool
	}{
		{"kairos-system", "kairos-operator-1", nil, true}, // itself
		{"kairos-system", "kairos-operator-2", ours, true},
		{"kairos-system", "os-1", map[string]string{v1alpha1.LabelStep: "Staging"}, true},
		{"default", "job", map[string]string{v1alpha1.LabelNodeOp: "job"}, true},
		{"default", "kairos-operator-2", ours, false}, // somebody else's name
		{"kairos-system", "web", nil, false},
	} {
		pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: c.name, Labels: c.labels}}
		if got := (drainer{self: "kairos-system/kairos-operator-1"}).keep(pod); got.Delete == c.keeps {
			t.Errorf("%s/%s %v: evicted: %v", c.namespace, c.name, c.labels, got.Delete)
		}
	}
	alone := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Labels: ours}}
	if !(drainer{}).keep(alone).Delete {
		t.Error("an operator that is no pod keeps a pod of that label")
	}
}
