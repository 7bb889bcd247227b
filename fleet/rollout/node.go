package rollout

import (
	"cmp"
	"slices"

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
	// Op is a NodeOp's record, not always of one that is still there.
	Op *v1alpha1.NodeRecord
	// Version is the resourceVersion that all of this was read from: what is decided by it is written only there.
	Version string
}

// NodeOf reads a Node. A record that cannot be read is none: the rollout begins with that node again.
func NodeOf(n *corev1.Node) Node {
	out := Node{
		Name: n.Name, Labels: n.Labels, Cordoned: n.Spec.Unschedulable, BootID: n.Status.NodeInfo.BootID,
		CordonedBy: n.Annotations[v1alpha1.AnnotationCordonedBy], Version: n.ResourceVersion,
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
	out.Op, err = v1alpha1.ParseOp(n.Annotations)
	if err != nil {
		out.Op = nil
	}
	return out
}

// Sort puts nodes into the order in which they have their turn: control planes first, then by name.
func Sort(nodes []Node) {
	slices.SortFunc(nodes, func(a, b Node) int {
		if a.ControlPlane != b.ControlPlane {
			if a.ControlPlane {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
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
