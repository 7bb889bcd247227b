package api

// Result is what an upgrade, a rollback or a reset did.
type Result struct {
	Release string `json:"release"` // id
	Version string `json:"version,omitempty"`
	// Changed says whether another release boots next than before.
	Changed bool `json:"changed"`
	// Recovery says that Release is the recovery system's.
	Recovery bool `json:"recovery,omitempty"`
	// OnTrial says that the recovery system is started once, by the next start, before it takes the old one's place.
	OnTrial bool `json:"onTrial,omitempty"`
	// Removed are the ids of releases that no role needed any more.
	Removed []string `json:"removed,omitempty"`
	// RecoveryKey opens what a reset has encrypted with a new key. It is nowhere else.
	RecoveryKey string `json:"recoveryKey,omitempty"`
	// Outcome is OutcomeBlessed or OutcomeFellBack where somebody waited for it, and Failure then why it fell back.
	Outcome string   `json:"outcome,omitempty"`
	Failure *Failure `json:"failure,omitempty"`
	// Transfer says where the layers came from.
	Transfer
}

// Transfer is where the layers came from, in bytes. Of layers that were fetched whole and converted only Fetched is
// known.
type Transfer struct {
	Fetched  int64 `json:"fetched,omitempty"`  // of layers and their blobs, from a registry
	Reused   int64 `json:"reused,omitempty"`   // data that other blobs here had
	Written  int64 `json:"written,omitempty"`  // data of the new blobs
	Ranges   int64 `json:"ranges,omitempty"`   // of data that were fetched
	Requests int64 `json:"requests,omitempty"` // for parts of blobs
}

// OutcomeFellBack is that of a release which has used up its tries.
const OutcomeFellBack = "fell back"

// InstallResult is what an installation did.
type InstallResult struct {
	Device  string `json:"device"`  // path of the disk
	Release string `json:"release"` // id
	Version string `json:"version,omitempty"`
	// RecoveryKey opens the encrypted partitions. It is nowhere else: who loses it loses what is on them.
	RecoveryKey string `json:"recoveryKey,omitempty"`
}

// BootChoice is what can be started, and what `boot` has chosen for the next start.
type BootChoice struct {
	Choice  string `json:"choice"` // "active", "passive", "recovery", "reset", or a release's id
	Release string `json:"release"`
	Version string `json:"version,omitempty"`
}

// GCResult is what a garbage collection did.
type GCResult struct {
	// Removed are the ids of releases that no role needed any more.
	Removed []string `json:"removed"`
}

// Outcomes of an assessment.
const (
	OutcomeBlessed   = "blessed"
	OutcomeGood      = "good already"
	OutcomeNoTrial   = "not on trial" // recovery, live medium
	OutcomeUnhealthy = "unhealthy"
)

// Assessment is what bless found.
type Assessment struct {
	Release string `json:"release"` // id
	// Outcome is one of OutcomeBlessed, OutcomeGood, OutcomeNoTrial and OutcomeUnhealthy.
	Outcome string  `json:"outcome"`
	Checks  []Check `json:"checks,omitempty"`
	// Problems are what could not be done beside that, such as raising the lowest epoch in the TPM: the outcome
	// stands.
	Problems []string `json:"problems,omitempty"`
}

// Check is how one health check ended.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Output string `json:"output,omitempty"` // the last part of it
}
