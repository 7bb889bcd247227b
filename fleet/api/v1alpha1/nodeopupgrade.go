package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// NodeOpUpgradeSpec is a release, the nodes that are to run it, and the order in which they get it. The first fields
// are the Kairos project's and mean the same; those behind excludePaths are optional, and go beyond.
type NodeOpUpgradeSpec struct {
	// NodeSelector chooses the nodes by their labels. Without it all nodes are upgraded.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// Image is the operating system's image. Nodes fetch it themselves; no pod runs it.
	// +required
	// +kubebuilder:validation:MinLength=1
	Image string `json:"image"`

	// ImagePullSecrets are secrets in the object's namespace with credentials for the registry of the helper pods'
	// image. A node fetches the operating system's image with its own credentials.
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// Concurrency is how many nodes are in work at a time. 0: all.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	Concurrency int32 `json:"concurrency,omitempty"`

	// StopOnFailure begins with no further node once one has failed or fallen back. Without it that is so where there
	// are waves, and not where there are none.
	// +optional
	StopOnFailure *bool `json:"stopOnFailure,omitempty"`

	// UpgradeRecovery upgrades the recovery system: after the node has proved the release to be healthy.
	// +optional
	UpgradeRecovery *bool `json:"upgradeRecovery,omitempty"`

	// UpgradeActive upgrades what the node runs. It is true without it.
	// +optional
	UpgradeActive *bool `json:"upgradeActive,omitempty"`

	// Force tries a release again on a node where it has failed before.
	// +optional
	Force *bool `json:"force,omitempty"`

	// Debug keeps the helper pods, whose logs have each step of kairos-apply.
	// +optional
	Debug *bool `json:"debug,omitempty"`

	// UncordonOnFailure takes the cordon back from a node that has failed or fallen back, too. Without it such a node
	// stays cordoned.
	// +optional
	UncordonOnFailure *bool `json:"uncordonOnFailure,omitempty"`

	// ExcludePaths are accepted, and nothing is to be done for them: an upgrade writes no file of the node's, so
	// each one stays as it is.
	// +optional
	ExcludePaths []string `json:"excludePaths,omitempty"`

	// Waves are groups of nodes that are upgraded one after the other: the next wave begins when all nodes of this
	// one have proved the release to be healthy. The last one that names a number of nodes is repeated until each
	// node has had its turn. Without waves there is one, with all nodes.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	Waves []Wave `json:"waves,omitempty"`

	// PauseBetweenWaves is how long to wait after a wave, such as 30m.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self)>=duration('0s')",message="want a duration such as 30m"
	PauseBetweenWaves *metav1.Duration `json:"pauseBetweenWaves,omitempty"`

	// MaxUnavailable is how many of the chosen nodes, or which part of them, may be cordoned or not Ready: no node is
	// cordoned that would make them more. Nodes that are so for other reasons count. Without it nothing is counted.
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^(100|[0-9]{1,2}([.][0-9]{1,2})?)%$`
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`

	// Windows are when nodes may be cordoned and restarted. What has begun in a window is finished after it;
	// releases are fetched at any time. Without windows that is always.
	// +optional
	// +kubebuilder:validation:MaxItems=32
	Windows []Window `json:"windows,omitempty"`

	// Paused begins with no further node, and cordons none. What is cordoned is finished.
	// +optional
	Paused bool `json:"paused,omitempty"`

	// Rollback has each node that this rollout has upgraded go back to the release that it ran before, and begins
	// with no other.
	// +optional
	Rollback bool `json:"rollback,omitempty"`

	// RollbackOnFailure says which nodes go back to the release that they ran before when one of them has failed or
	// fallen back: None, the Wave of that node, or All. The rollout stops then, whatever stopOnFailure says.
	// +optional
	// +kubebuilder:validation:Enum=None;Wave;All
	// +kubebuilder:default=None
	RollbackOnFailure RollbackPolicy `json:"rollbackOnFailure,omitempty"`

	// Pin says what the first node's answer binds the others to, so that a tag that moves meanwhile changes nothing:
	// Release, where a node that would get another release has failed; Digest, where the others fetch that
	// digest; or None.
	// +optional
	// +kubebuilder:validation:Enum=Release;Digest;None
	// +kubebuilder:default=Release
	Pin PinPolicy `json:"pin,omitempty"`

	// Away says what becomes of nodes that are not Ready: with Wait the rollout is not complete before they are back,
	// with Skip it is, without them. Neither holds up the other nodes, and a node that comes, or comes back, while
	// the rollout runs, joins it.
	// +optional
	// +kubebuilder:validation:Enum=Wait;Skip
	// +kubebuilder:default=Wait
	Away AwayPolicy `json:"away,omitempty"`

	// DrainOptions say how pods are evicted before a node restarts; enabled is not looked at, they always are. Without
	// them pods of DaemonSets stay, and pods without a controller and those with emptyDir volumes hold the drain up.
	// +optional
	DrainOptions *DrainOptions `json:"drainOptions,omitempty"`

	// BackoffLimit is how often a step that failed on a node is repeated, with growing pauses.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=0
	BackoffLimit *int32 `json:"backoffLimit,omitempty"`

	// StageTimeout is how long a node may take to fetch the release, TrialTimeout how long from its restart until it
	// has proved the release to be healthy: three tries, where the first ones hang.
	// +optional
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self)>=duration('0s')",message="want a duration such as 30m"
	StageTimeout *metav1.Duration `json:"stageTimeout,omitempty"`
	// +optional
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self)>=duration('0s')",message="want a duration such as 30m"
	TrialTimeout *metav1.Duration `json:"trialTimeout,omitempty"`
}

// Wave is a group of nodes. With both fields it is as many nodes of those that the selector chooses.
type Wave struct {
	// Nodes is how many of all chosen nodes, or which part of them, such as 1 or "10%", rounded up.
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^(100|[1-9][0-9]?([.][0-9]{1,2})?|0[.](0[1-9]|[1-9][0-9]?))%$`
	// +kubebuilder:validation:XValidation:rule="self != 0",message="want a number from 1"
	Nodes *intstr.IntOrString `json:"nodes,omitempty"`

	// NodeSelector chooses nodes by their labels.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
}

// Window is a time of the week.
type Window struct {
	// Days are those on which the window begins, as Mon, Tue, Wed, Thu, Fri, Sat, Sun. Without them each day is one.
	// +optional
	// +kubebuilder:validation:items:Enum=Mon;Tue;Wed;Thu;Fri;Sat;Sun
	// +kubebuilder:validation:MaxItems=7
	Days []string `json:"days,omitempty"`

	// Start is when it begins, as 22:30.
	// +kubebuilder:validation:Pattern=`^([01][0-9]|2[0-3]):[0-5][0-9]$`
	Start string `json:"start"`

	// Duration is how long it is, such as 6h.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self)>=duration('0s')",message="want a duration such as 30m"
	Duration metav1.Duration `json:"duration"`

	// TimeZone is the name of the time zone that start is in, such as Europe/Berlin. Without it that is UTC.
	// +optional
	TimeZone string `json:"timeZone,omitempty"`
}

// RollbackPolicy is a value of [NodeOpUpgradeSpec.RollbackOnFailure].
type RollbackPolicy string

// Rollback policies.
const (
	RollbackNone RollbackPolicy = "None"
	RollbackWave RollbackPolicy = "Wave"
	RollbackAll  RollbackPolicy = "All"
)

// PinPolicy is a value of [NodeOpUpgradeSpec.Pin].
type PinPolicy string

// Pin policies.
const (
	PinRelease PinPolicy = "Release"
	PinDigest  PinPolicy = "Digest"
	PinNone    PinPolicy = "None"
)

// AwayPolicy is a value of [NodeOpUpgradeSpec.Away].
type AwayPolicy string

// Away policies.
const (
	AwayWait AwayPolicy = "Wait"
	AwaySkip AwayPolicy = "Skip"
)

// MaxNodeStatuses is how many nodes [NodeOpUpgradeStatus.NodeStatuses] has at most: all nodes of a fleet that is not
// larger, else those in work and those that failed. A Node's record has the rest.
const MaxNodeStatuses = 200

// NodeOpUpgradeStatus is how far a rollout is.
type NodeOpUpgradeStatus struct {
	// Phase is Pending, Running, Completed or Failed. Completed and Failed are the end, until the spec names another
	// image.
	// +optional
	Phase string `json:"phase,omitempty"`

	// NodeOpName is empty: an upgrade takes no NodeOp.
	// +optional
	NodeOpName string `json:"nodeOpName,omitempty"`

	// NodeStatuses has nodes that the rollout has begun with, by their names: of a fleet of more than 200 nodes those
	// that are in work or have failed.
	// +optional
	NodeStatuses map[string]NodeStatus `json:"nodeStatuses,omitempty"`

	// Message says what the rollout does or waits for, in words for people.
	// +optional
	Message string `json:"message,omitempty"`

	// LastUpdated is when this status last changed.
	// +optional
	LastUpdated metav1.Time `json:"lastUpdated,omitempty"`

	// Progress is the numbers of nodes as people say them, such as "12/40 blessed, 1 fell back".
	// +optional
	Progress string `json:"progress,omitempty"`

	// Nodes are the numbers of nodes.
	// +optional
	Nodes NodeCounts `json:"nodes,omitempty"`

	// Target is a digest of what the spec wants of a node. It changes with the image, and not with the order in which
	// nodes get it.
	// +optional
	Target string `json:"target,omitempty"`

	// Release is the id of the release that the first node found the image to be, Version its version, and Digest
	// its manifest's digest.
	// +optional
	Release string `json:"release,omitempty"`
	// +optional
	Version string `json:"version,omitempty"`
	// +optional
	Digest string `json:"digest,omitempty"`

	// Wave is the number of the wave that is in work, from 1, and WaveDone when all its nodes had ended, where they
	// have.
	// +optional
	Wave int32 `json:"wave,omitempty"`
	// +optional
	WaveDone *metav1.Time `json:"waveDone,omitempty"`

	// Stopped says why no further node is begun with, where that is so for good.
	// +optional
	Stopped string `json:"stopped,omitempty"`

	// ObservedGeneration is the generation of the object that this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions are Progressing, Complete, Degraded and Paused.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// NodeCounts are numbers of nodes in a rollout. Total is the sum of the others.
type NodeCounts struct {
	// Total is how many nodes the rollout is for.
	Total int32 `json:"total"`
	// Waiting have not begun, and are Ready; Away are those that are not.
	Waiting int32 `json:"waiting"`
	Away    int32 `json:"away"`
	// Working are between their first and their last step.
	Working int32 `json:"working"`
	// Blessed run the release, and have proved it to be healthy.
	Blessed int32 `json:"blessed"`
	// FellBack run another release again, because this one failed on them.
	FellBack int32 `json:"fellBack"`
	// Failed have not come to the point of trying the release, or have not come back.
	Failed int32 `json:"failed"`
	// RolledBack have gone back because they were told to.
	RolledBack int32 `json:"rolledBack"`
}

// Conditions of a NodeOpUpgrade and, but for the last one, of a NodeOp.
const (
	ConditionProgressing = "Progressing"
	ConditionComplete    = "Complete"
	ConditionDegraded    = "Degraded" // nodes have failed or fallen back
	ConditionPaused      = "Paused"
)

// NodeOpUpgrade rolls a release out to nodes.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Image",type=string,JSONPath=`.spec.image`,priority=1
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Wave",type=integer,JSONPath=`.status.wave`
// +kubebuilder:printcolumn:name="Progress",type=string,JSONPath=`.status.progress`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeOpUpgrade struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   NodeOpUpgradeSpec   `json:"spec,omitempty"`
	Status NodeOpUpgradeStatus `json:"status,omitempty"`
}

// NodeOpUpgradeList is a list of NodeOpUpgrades.
//
// +kubebuilder:object:root=true
type NodeOpUpgradeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeOpUpgrade `json:"items"`
}
