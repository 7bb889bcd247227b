// Package v1alpha1 has the objects of the API group operator.kairos.io/v1alpha1: [NodeOp] and [NodeOpUpgrade] are the
// Kairos project's, field by field, with further optional fields behind them; [NodeReport] is what a node tells of
// itself, and [NodeRecord] how far a rollout is with a node. Both of these are annotations of the Node.
//
//	NodeOpUpgrade.spec ──▶ operator ──▶ Node: annotation rollout (NodeRecord), cordon
//	                          ▲            │
//	                          │            ▼ helper pod: kairos-apply, its answer a HelperReport
//	                          └──── Node: annotation report (NodeReport), condition KairosRelease ◀── node agent
//
// All state is in these objects: whoever reads them knows what to do next.
//
// +kubebuilder:object:generate=true
// +groupName=operator.kairos.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group of this package, and its version.
var GroupVersion = schema.GroupVersion{Group: "operator.kairos.io", Version: "v1alpha1"}

// AddToScheme registers the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &NodeOp{}, &NodeOpList{}, &NodeOpUpgrade{}, &NodeOpUpgradeList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
