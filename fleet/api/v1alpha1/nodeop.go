package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeOpSpec is a command, and the nodes that it runs on.
type NodeOpSpec struct {
	// NodeSelector chooses the nodes by their labels. Without it the command runs on all nodes.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// Command is what runs on each node, in a privileged container that has the node's root file system at
	// hostMountPath.
	Command []string `json:"command"`

	// HostMountPath is where the container has the node's root file system.
	// +optional
	// +kubebuilder:default="/host"
	HostMountPath string `json:"hostMountPath,omitempty"`

	// Image is the container's image. Without it, it is what the operator's environment variable
	// NODEOP_DEFAULT_IMAGE says, else busybox:latest.
	// +optional
	Image string `json:"image,omitempty"`

	// ImagePullSecrets are secrets in the object's namespace with credentials for the images' registries.
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// Cordon has no pod scheduled to the node from before the command until it, and a restart after it, has ended
	// well.
	// +optional
	// +kubebuilder:default=false
	Cordon *bool `json:"cordon,omitempty"`

	// UncordonOnFailure takes the cordon back after a failure, too, where it is this object's. Without it a node
	// whose command failed stays cordoned.
	// +optional
	// +kubebuilder:default=false
	UncordonOnFailure *bool `json:"uncordonOnFailure,omitempty"`

	// DrainOptions say how pods are evicted before the command runs. Without cordon, or without enabled, none are.
	// +optional
	DrainOptions *DrainOptions `json:"drainOptions,omitempty"`

	// RebootOnSuccess restarts the node when the command has ended well. The node is done when it is Ready again after
	// another boot.
	// +optional
	// +kubebuilder:default=false
	RebootOnSuccess *bool `json:"rebootOnSuccess,omitempty"`

	// BackoffLimit is how often a command that fails is repeated, as in a Job; there it is 6 without it.
	// +optional
	BackoffLimit *int32 `json:"backoffLimit,omitempty"`

	// Concurrency is on how many nodes the command runs at a time. 0: on all.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	Concurrency int32 `json:"concurrency,omitempty"`

	// StopOnFailure begins with no further node once the command has failed on one.
	// +optional
	// +kubebuilder:default=false
	StopOnFailure *bool `json:"stopOnFailure,omitempty"`

	// Preflight asks on each node, before cordon and drain, whether there is anything to do.
	// +optional
	Preflight *PreflightSpec `json:"preflight,omitempty"`
}

// PreflightSpec is a check that runs in a pod of its own, with the node's root file system read-only. What it writes
// to /dev/termination-log is why the node is left out; where it ends well and writes nothing, the command runs. Where
// it fails, the node has failed.
type PreflightSpec struct {
	// Command is the check.
	Command []string `json:"command"`

	// Image is the check's container image. Without it, it is the command's.
	// +optional
	Image string `json:"image,omitempty"`

	// ActiveDeadlineSeconds is how long the check may take.
	// +optional
	// +kubebuilder:default=120
	ActiveDeadlineSeconds *int32 `json:"activeDeadlineSeconds,omitempty"`
}

// DrainOptions say how pods are evicted from a node.
type DrainOptions struct {
	// Enabled has pods evicted.
	// +optional
	// +kubebuilder:default=false
	Enabled *bool `json:"enabled,omitempty"`

	// Force evicts pods that no controller would start again, too.
	// +optional
	// +kubebuilder:default=false
	Force *bool `json:"force,omitempty"`

	// GracePeriodSeconds is how long each pod may take to end. Negative: what the pod says.
	// +optional
	GracePeriodSeconds *int32 `json:"gracePeriodSeconds,omitempty"`

	// IgnoreDaemonSets leaves pods of DaemonSets where they are.
	// +optional
	// +kubebuilder:default=true
	IgnoreDaemonSets *bool `json:"ignoreDaemonSets,omitempty"`

	// DeleteEmptyDirData evicts pods with emptyDir volumes, too: their data are gone then.
	// +optional
	// +kubebuilder:default=false
	DeleteEmptyDirData *bool `json:"deleteEmptyDirData,omitempty"`

	// TimeoutSeconds is how long pods may take to go, PodDisruptionBudgets that hold them included.
	// +optional
	TimeoutSeconds *int32 `json:"timeoutSeconds,omitempty"`
}

// Phases of an object and of a node in it.
const (
	PhasePending   = "Pending"
	PhasePreflight = "Preflight" // of a node in a NodeOp
	PhaseRunning   = "Running"
	PhaseCompleted = "Completed"
	PhaseFailed    = "Failed"
)

// Values of [NodeStatus.RebootStatus].
const (
	RebootNotRequested = "not-requested"
	RebootCancelled    = "cancelled" // the command failed
	RebootPending      = "pending"
	RebootCompleted    = "completed"
)

// NodeOpStatus is how far a NodeOp is.
type NodeOpStatus struct {
	// Phase is Pending, Running, Completed or Failed.
	// +optional
	Phase string `json:"phase,omitempty"`

	// NodeStatuses has each node that the command has begun with, by its name: of more than 200 nodes those that are
	// in work or have failed.
	// +optional
	NodeStatuses map[string]NodeStatus `json:"nodeStatuses,omitempty"`

	// Progress is the numbers of nodes as people say them, such as "12/40 done, 1 failed".
	// +optional
	Progress string `json:"progress,omitempty"`

	// LastUpdated is when this status last changed.
	// +optional
	LastUpdated metav1.Time `json:"lastUpdated,omitempty"`

	// Message says what the NodeOp does or waits for, in words for people.
	// +optional
	Message string `json:"message,omitempty"`

	// Nodes are the numbers of nodes.
	// +optional
	Nodes NodeOpCounts `json:"nodes,omitempty"`

	// ObservedGeneration is the generation of the object that this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions are Progressing, Complete and Degraded.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// NodeOpCounts are numbers of nodes of a NodeOp. Total is the sum of the others.
type NodeOpCounts struct {
	Total int32 `json:"total"`
	// Waiting have not begun, and are Ready; Away are those that are not.
	Waiting int32 `json:"waiting"`
	Away    int32 `json:"away"`
	// Working are between their first and their last step.
	Working int32 `json:"working"`
	// Completed have run the command well, and have restarted where that is wanted.
	Completed int32 `json:"completed"`
	// Skipped had nothing to do, by their preflight.
	Skipped int32 `json:"skipped"`
	Failed  int32 `json:"failed"`
}

// NodeStatus is how far an object is with one node.
type NodeStatus struct {
	// Phase is Pending, Preflight, Running, Completed or Failed.
	Phase string `json:"phase"`

	// JobName is the Job that runs a NodeOp's command on the node.
	// +optional
	JobName string `json:"jobName,omitempty"`

	// Message says why, in words for people.
	// +optional
	Message string `json:"message,omitempty"`

	// RebootStatus is not-requested, cancelled, pending or completed.
	// +optional
	RebootStatus string `json:"rebootStatus,omitempty"`

	// LastUpdated is when this last changed.
	// +optional
	LastUpdated metav1.Time `json:"lastUpdated,omitempty"`

	// Step is what is done with the node: see NodeRecord.
	// +optional
	Step Step `json:"step,omitempty"`

	// Release is the id of the release that the node is to run, From that of the one it ran before.
	// +optional
	Release string `json:"release,omitempty"`
	// +optional
	From string `json:"from,omitempty"`

	// Wave is the number of the wave that the node is in, from 1.
	// +optional
	Wave int32 `json:"wave,omitempty"`

	// BootID is the node's boot that a restart is to end.
	// +optional
	BootID string `json:"bootID,omitempty"`
}

// NodeOp runs a command on nodes, once on each. It ends when no node is left; what its spec says meanwhile is for
// nodes that have not begun.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Progress",type=string,JSONPath=`.status.progress`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeOp struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   NodeOpSpec   `json:"spec,omitempty"`
	Status NodeOpStatus `json:"status,omitempty"`
}

// NodeOpList is a list of NodeOps.
//
// +kubebuilder:object:root=true
type NodeOpList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeOp `json:"items"`
}
