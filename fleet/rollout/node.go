package rollout

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// Node is what a rollout knows of a node.
type Node struct {
	Name         string
	Labels       map[string]string
	ControlPlane bool
	Ready        bool
	Cordoned     bool
	CordonedBy   string // [v1alpha1.AnnotationCordonedBy]
	BootID       string
	// Report is what the node says of the boot BootID. nil: nothing yet, or something that cannot be read, and Problem
	// says why.
	Report  *v1alpha1.NodeReport
	Problem string
	// Record is a rollout's, not always this one's.
	Record *v1alpha1.NodeRecord
}

// NodeOf reads a Node. A record that cannot be read is none: the rollout begins with that node again.
func NodeOf(n *corev1.Node) Node {
	out := Node{
		Name: n.Name, Labels: n.Labels, Cordoned: n.Spec.Unschedulable, BootID: n.Status.NodeInfo.BootID,
		CordonedBy: n.Annotations[v1alpha1.AnnotationCordonedBy],
	}
	for _, role := range []string{"control-plane", "master"} {
		if _, ok := n.Labels["node-role.kubernetes.io/"+role]; ok {
			out.ControlPlane = true
		}
	}
	for _, c := range n.Status.Conditions {
		out.Ready = out.Ready || c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}
	report, err := v1alpha1.ParseReport(n.Annotations)
	switch {
	case err != nil:
		out.Problem = err.Error()
	case report != nil && report.BootID == out.BootID:
		out.Report = report
	}
	out.Record, err = v1alpha1.ParseRecord(n.Annotations)
	if err != nil {
		out.Record = nil
	}
	return out
}

// available says whether pods can be scheduled to the node.
func (n Node) available() bool { return n.Ready && !n.Cordoned }

// runs says whether the node runs a release that has proved healthy, by its own word.
func (n Node) runs(release string) bool {
	return n.Report != nil && n.Report.Booted != nil && n.Report.Booted.Release == release && n.Report.Booted.Blessed
}

// failure returns why a release has failed on the node, where it has.
func (n Node) failure(release string) (reason string, failed bool) {
	if n.Report == nil {
		return "", false
	}
	for _, f := range n.Report.Failed {
		if f.Release == release {
			return f.Reason, true
		}
	}
	return "", false
}

func (n Node) booted() string {
	if n.Report == nil || n.Report.Booted == nil {
		return ""
	}
	return n.Report.Booted.Release
}
