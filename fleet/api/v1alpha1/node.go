package v1alpha1

import (
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Labels of a Node, written by the agent on it. The first two are the Kairos project's, whose values the second one
// has.
const (
	LabelManaged   = "kairos.io/managed"    // "true": this is a Kairos node
	LabelBootState = "kairos.io/boot-state" // active, passive, recovery, livecd or unknown
	LabelRelease   = "operator.kairos.io/release"
	LabelTrial     = "operator.kairos.io/trial" // "true" or "false"
)

// Annotations of a Node.
const (
	// AnnotationVersion is KAIROS_VERSION of the release that runs, as the Kairos project has it.
	AnnotationVersion = "kairos.io/version"
	// AnnotationReport is the node's [NodeReport], written by the agent on it.
	AnnotationReport = "operator.kairos.io/report"
	// AnnotationRecord is a rollout's [NodeRecord] of the node, written by the operator.
	AnnotationRecord = "operator.kairos.io/rollout"
	// AnnotationOp is a NodeOp's [NodeRecord] of the node, written by the operator.
	AnnotationOp = "operator.kairos.io/nodeop"
	// AnnotationCordonedBy is the object that has cordoned the node, as namespace/name@uid, written by the operator
	// with the cordon. A cordon without it is left alone.
	AnnotationCordonedBy = "operator.kairos.io/cordoned-by"
)

// Labels of Jobs and pods that the operator starts. All are the Kairos project's but for the last two.
const (
	LabelNodeOp    = "kairos.io/nodeop" // name of the NodeOp
	LabelNode      = "kairos.io/node"   // name of the node, or a hash of one that is too long for a label
	LabelReboot    = "kairos.io/reboot"
	LabelPreflight = "kairos.io/preflight"
	LabelUpgrade   = "nodeopupgrade.kairos.io/name" // name of the NodeOpUpgrade
	LabelStep      = "operator.kairos.io/step"      // the [Step] that a pod is for
)

// ConditionRelease is the type of the Node's condition that the agent writes: True when the release that runs has
// proved healthy. Its reason is one of the constants below, its message says so in words for people.
const ConditionRelease = "KairosRelease"

// Reasons of the condition [ConditionRelease].
const (
	ReasonBlessed  = "Blessed"  // True
	ReasonOnTrial  = "OnTrial"  // False
	ReasonFellBack = "FellBack" // False: another release was to boot, and failed
	ReasonRecovery = "Recovery" // False: the recovery system runs
	ReasonLive     = "Live"     // False: a live medium runs
	ReasonUnknown  = "Unknown"  // Unknown: kairos-apply does not answer
)

// ReportSchema is the version of [NodeReport].
const ReportSchema = 1

// BootIDFile is where the kernel names its boot, the same in containers as on their node.
const BootIDFile = "/proc/sys/kernel/random/boot_id"

// Bounded is a text of at most n bytes, more than 3: one that was cut ends with "…".
func Bounded(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n-len("…")], "") + "…"
	}
	return s
}

// MaxReason is how many bytes of a reason a [NodeReport] and a [NodeRecord] have: the objects of a fleet stay small.
const MaxReason = 400

// NodeReport is what a node tells of itself, by what `kairos-apply status -o json` says there. It is the value, in
// JSON, of the annotation [AnnotationReport].
type NodeReport struct {
	// Schema is ReportSchema. A reader takes no other.
	Schema int `json:"schema"`
	// BootID is the boot that this is about: [BootIDFile], as in the Node's status.nodeInfo. A
	// report of another boot than that says nothing.
	BootID string `json:"bootID"`
	// Mode is installed, recovery, live or none, Firmware uefi or bios.
	Mode     string `json:"mode"`
	Firmware string `json:"firmware,omitempty"`
	// Role of the release that runs: active, passive, recovery or live.
	Role string `json:"role,omitempty"`
	// Booted is the release that runs, Active the one that boots next, Passive the one that boots if that fails, and
	// Recovery the one that boots if both do.
	Booted   *NodeRelease `json:"booted,omitempty"`
	Active   *NodeRelease `json:"active,omitempty"`
	Passive  *NodeRelease `json:"passive,omitempty"`
	Recovery *NodeRelease `json:"recovery,omitempty"`
	// RecoveryTrial is a new recovery system that is started once before it takes Recovery's place, or was and failed.
	RecoveryTrial *NodeRecoveryTrial `json:"recoveryTrial,omitempty"`
	// Failed are releases that have used up their tries.
	Failed []NodeRelease `json:"failed,omitempty"`
	// PendingRestart says that another release runs than boots next.
	PendingRestart bool `json:"pendingRestart,omitempty"`
	// Problems are what did not take effect in this boot, in words for people; the first few.
	Problems []string `json:"problems,omitempty"`
}

// NodeRecoveryTrial is a recovery system that is tried.
type NodeRecoveryTrial struct {
	// State is pending, running, passed or failed.
	State       string `json:"state"`
	NodeRelease `json:",inline"`
}

// NodeRelease is a release on a node.
type NodeRelease struct {
	// Release is its id: the first 12 hex digits of the image's config digest.
	Release string `json:"release"`
	Version string `json:"version,omitempty"`
	Image   string `json:"image,omitempty"`
	// Blessed says that it has proved healthy. One that has not is on trial, with tries left and used.
	Blessed   bool `json:"blessed,omitempty"`
	TriesLeft int  `json:"triesLeft,omitempty"`
	TriesUsed int  `json:"triesUsed,omitempty"`
	// Reason is why it last failed, or cannot boot.
	Reason string `json:"reason,omitempty"`
	// SignedBy are the names of the keys that have signed it.
	SignedBy []string `json:"signedBy,omitempty"`
}

// ParseReport reads the annotation [AnnotationReport]. Without one the report is nil, and there is no error.
func ParseReport(annotations map[string]string) (*NodeReport, error) {
	var r NodeReport
	if ok, err := parse(annotations, AnnotationReport, &r); !ok || err != nil {
		return nil, err
	}
	if r.Schema != ReportSchema {
		return nil, fmt.Errorf("annotation %s: schema %d is not known, want %d: "+
			"agent and operator are of different versions", AnnotationReport, r.Schema, ReportSchema)
	}
	return &r, nil
}

// String is the annotation's value.
func (r NodeReport) String() string { return text(r) }

// Step is what a rollout or a NodeOp does with a node.
type Step string

// Steps of a node in a rollout, in their order. Before Cordoning nothing that the node's pods notice has happened.
const (
	StepStaging    Step = "Staging"    // a helper pod asks kairos-apply, and has it fetch the release
	StepStaged     Step = "Staged"     // waits for its turn to be cordoned: window, maxUnavailable, pause
	StepCordoning  Step = "Cordoning"  // is cordoned, and its pods are evicted
	StepRestarting Step = "Restarting" // a helper pod has kairos-apply activate the release and restart the node
	StepTrial      Step = "Trial"      // has restarted, and has to prove healthy
	StepRecovery   Step = "Recovery"   // is blessed and uncordoned; a helper pod upgrades the recovery system
	// These are the ends.
	StepBlessed    Step = "Blessed"
	StepFellBack   Step = "FellBack"
	StepFailed     Step = "Failed"
	StepRolledBack Step = "RolledBack"
)

// Steps of a node in a NodeOp, in their order: Preflight, Cordoning, Starting, Running, Restarting, and an end. Those
// that a rollout has, too, are above.
const (
	StepPreflight Step = "Preflight" // a pod finds out whether there is anything to do
	StepStarting  Step = "Starting"  // the Job has to be made
	StepRunning   Step = "Running"   // the Job has been made: once for a node
	// These are ends, as is StepFailed.
	StepCompleted Step = "Completed"
	StepSkipped   Step = "Skipped" // there was nothing to do
)

// Ended says whether there is nothing more to do on a node.
func (s Step) Ended() bool {
	switch s {
	case StepBlessed, StepFellBack, StepFailed, StepRolledBack, StepCompleted, StepSkipped:
		return true
	}
	return false
}

// NodeRecord is how far a rollout or a NodeOp is with a node. It is the value, in JSON, of the annotation
// [AnnotationRecord] or [AnnotationOp].
type NodeRecord struct {
	// Rollout is the NodeOpUpgrade or NodeOp, as namespace/name@uid, and Target a NodeOpUpgrade's status.target when
	// this node began.
	Rollout string `json:"rollout"`
	Target  string `json:"target,omitempty"`
	Wave    int32  `json:"wave,omitempty"` // from 1
	Step    Step   `json:"step"`
	// Since is when the step began, by the operator's clock.
	Since metav1.Time `json:"since"`
	// Image is what the node fetches, Release the id of the release that it has to run in the end, and From that of
	// the one that it ran in the beginning.
	Image   string `json:"image,omitempty"`
	Release string `json:"release,omitempty"`
	Version string `json:"version,omitempty"`
	Digest  string `json:"digest,omitempty"` // of the image's manifest, where it is known
	From    string `json:"from,omitempty"`
	// BootID is the boot that the restart is to end.
	BootID string `json:"bootID,omitempty"`
	// Attempt is how often the step has failed, NotBefore when it is tried again.
	Attempt   int32        `json:"attempt,omitempty"`
	NotBefore *metav1.Time `json:"notBefore,omitempty"`
	// Job is the name of the Job that runs a NodeOp's command, once it has been seen.
	Job string `json:"job,omitempty"`
	// Undo says that the node goes back to From.
	Undo bool `json:"undo,omitempty"`
	// Reason is why the step is what it is, in words for people.
	Reason string `json:"reason,omitempty"`
}

// ParseRecord reads the annotation [AnnotationRecord]. Without one the record is nil, and there is no error.
func ParseRecord(annotations map[string]string) (*NodeRecord, error) {
	var r NodeRecord
	if ok, err := parse(annotations, AnnotationRecord, &r); !ok || err != nil {
		return nil, err
	}
	return &r, nil
}

// ParseOp reads the annotation [AnnotationOp]. Without one the record is nil, and there is no error.
func ParseOp(annotations map[string]string) (*NodeRecord, error) {
	var r NodeRecord
	if ok, err := parse(annotations, AnnotationOp, &r); !ok || err != nil {
		return nil, err
	}
	return &r, nil
}

// String is the annotation's value.
func (r NodeRecord) String() string { return text(r) }

// HelperReport is a helper pod's answer: its termination message, in JSON.
type HelperReport struct {
	// Exit is the exit code of kairos-apply, as package api has them; -1 where it could not be started.
	Exit int `json:"exit"`
	// Release is the id of the image's release, Version its version, and Digest its manifest's digest, as far as they
	// are known.
	Release string `json:"release,omitempty"`
	Version string `json:"version,omitempty"`
	Digest  string `json:"digest,omitempty"`
	// Changed says whether another release boots next than before.
	Changed bool `json:"changed,omitempty"`
	// Fetched is in bytes.
	Fetched int64 `json:"fetched,omitempty"`
	// Reason is why kairos-apply failed or refuses, in its words.
	Reason string `json:"reason,omitempty"`
}

// ParseHelperReport reads a termination message.
func ParseHelperReport(message string) (HelperReport, error) {
	var r HelperReport
	if err := json.Unmarshal([]byte(message), &r); err != nil {
		return r, fmt.Errorf("termination message of the helper pod: %w", err)
	}
	return r, nil
}

// String is the termination message.
func (r HelperReport) String() string { return text(r) }

func parse(annotations map[string]string, name string, to any) (ok bool, err error) {
	value, ok := annotations[name]
	if !ok || value == "" {
		return false, nil
	}
	if err := json.Unmarshal([]byte(value), to); err != nil {
		return false, fmt.Errorf("annotation %s: %w", name, err)
	}
	return true, nil
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // none of these types has what JSON cannot say
	}
	return string(b)
}
