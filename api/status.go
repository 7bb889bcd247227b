package api

import "strings"

// Schema is the version of the objects in this package.
const Schema = 1

// Modes in which a machine runs.
const (
	ModeInstalled = "installed" // booted from STATE
	ModeRecovery  = "recovery"  // booted from RECOVERY
	ModeLive      = "live"      // booted from a medium
	ModeNone      = "none"      // a container, or a system that Kairos did not start
)

// What Persistent and SecureBoot of a [Status] say.
const (
	// PersistentInMemory is where what is persistent is while its partition cannot be used.
	PersistentInMemory = "memory"

	SecureBootEnforcing = "enforcing" // the firmware starts what its keys have signed, and nothing else
	SecureBootOff       = "off"       // it starts anything
	SecureBootSetup     = "setup"     // the same, and it has no owner: whoever runs gives it its keys
)

// Status says what is booted, what boots next, and what failed.
type Status struct {
	// Schema is [Schema]. It grows when a field changes its meaning.
	Schema int `json:"schema"`
	// Mode is one of ModeInstalled, ModeRecovery, ModeLive and ModeNone.
	Mode string `json:"mode"`
	// Firmware is "uefi" or "bios".
	Firmware string `json:"firmware,omitempty"`
	// SecureBoot is one of SecureBootEnforcing, SecureBootOff and SecureBootSetup; empty under BIOS, and where the
	// firmware's variables cannot be read.
	SecureBoot string `json:"secureBoot,omitempty"`
	// Booted is the release that runs.
	Booted *Slot `json:"booted,omitempty"`
	// Active is the release that boots next, Passive the one that boots if that fails,
	// Recovery the one that boots if both fail.
	Active   *Slot `json:"active,omitempty"`
	Passive  *Slot `json:"passive,omitempty"`
	Recovery *Slot `json:"recovery,omitempty"`
	// RecoveryTrial is a new recovery system that is started once before it takes Recovery's place.
	RecoveryTrial *RecoveryTrial `json:"recoveryTrial,omitempty"`
	// Failed are releases that used up their tries. They stay until the next upgrade.
	Failed []Slot `json:"failed,omitempty"`
	// Trust is what the running system asks of a release. nil: nothing, it is not sealed.
	Trust *Trust `json:"trust,omitempty"`
	// ConfigProblems are the parts of the cloud-config that did not take effect in this boot.
	ConfigProblems []ConfigProblem `json:"configProblems,omitempty"`
	// Persistent is PersistentInMemory where the partition PERSISTENT cannot be used, so that nothing is kept over a
	// restart; else empty.
	Persistent string `json:"persistent,omitempty"`
	// Encrypted are the partitions that are encrypted, by their label, such as COS_PERSISTENT, and what has opened
	// each at this start: "recovery key", "passphrase", or the type of a token. It is empty where nothing did: then
	// the partition is not used.
	Encrypted map[string]string `json:"encrypted,omitempty"`
	// Problems are what this boot could not do as the node's config and mount policy have it, in words for a person:
	// such as a persistent path that is not kept.
	Problems []string `json:"problems,omitempty"`
}

// What a recovery system's trial has come to.
const (
	TrialPending = "pending" // the next start is its
	TrialRunning = "running" // it runs now
	TrialPassed  = "passed"  // it came up, and takes the old one's place when the active release is healthy
	TrialFailed  = "failed"  // it did not, and is gone or goes; the old one stays
)

// RecoveryTrial is a new recovery system that is tried, or was and has failed. That stays until the next one.
type RecoveryTrial struct {
	// State is one of TrialPending, TrialRunning, TrialPassed and TrialFailed; Failure says why it failed.
	State string `json:"state"`
	Slot
}

// Slot is what one role of a node holds: a release.
type Slot struct {
	// Release is the release's id: the first 12 hex digits of the image's config digest.
	Release string `json:"release"`
	// Version is KAIROS_VERSION of the image, Image the reference that it was taken from.
	Version string `json:"version,omitempty"`
	Image   string `json:"image,omitempty"`
	// Epoch is the index against rollback of the image: its label io.kairos.epoch.
	Epoch int64 `json:"epoch,omitempty"`
	// Signatures are those beside the release, sorted by key.
	Signatures []Signature `json:"signatures,omitempty"`
	// Refused says why the running system does not accept the release as it is: signatures, epoch, architecture. It is
	// empty where the running system asks for nothing.
	Refused string `json:"refused,omitempty"`
	// Accepted are the requirements of the node's policies that had accepted the image when it came; none where there
	// was no policy.
	Accepted []Acceptance `json:"accepted,omitempty"`
	// Blessed says that the release has proved healthy. One that has not has tries.
	Blessed   bool `json:"blessed"`
	TriesLeft int  `json:"triesLeft"`
	TriesUsed int  `json:"triesUsed"`
	// Problem says why the release cannot boot, where that is known: its release.json or a
	// layer is missing or damaged.
	Problem string `json:"problem,omitempty"`
	// Failure is what was recorded when the release last failed.
	Failure *Failure `json:"failure,omitempty"`
}

// Modes of [Trust], and states of its [TPM].
const (
	TrustRequired = "required" // what the keys have not signed does not boot
	TrustWarn     = "warn"     // it is said, and boots

	TPMReady  = "ready"  // it answers
	TPMNone   = "none"   // the machine has none: Epoch of [Trust] is all that is asked for
	TPMFailed = "failed" // it does not answer, or not as it should: the same
)

// Trust is what a sealed system asks of each release that is to boot.
type Trust struct {
	// Mode is one of TrustRequired and TrustWarn.
	Mode string `json:"mode"`
	// Threshold is how many of Keys must have signed, Epoch the lowest index against rollback.
	Threshold int   `json:"threshold"`
	Epoch     int64 `json:"epoch"`
	Keys      []Key `json:"keys"` // sorted by ID
	// TPM is what the machine's TPM asks for beside that. nil: the image does not have it keep anything.
	TPM *TPM `json:"tpm,omitempty"`
}

// TPM has the lowest indexes against rollback that a machine's TPM holds: those of the releases that have come up.
type TPM struct {
	// State is one of TPMReady, TPMNone and TPMFailed; Problem says why it failed.
	State   string `json:"state"`
	Problem string `json:"problem,omitempty"`
	// Epoch is the lowest of what boots as the system, Recovery that of the recovery system. 0: any.
	Epoch    int64 `json:"epoch"`
	Recovery int64 `json:"recovery"`
}

// Key is a public key.
type Key struct {
	// ID is the SHA-256 digest of the key's SubjectPublicKeyInfo, such as sha256:0123…
	ID string `json:"id"`
	// Algorithm is "ed25519" or "ecdsa-p256".
	Algorithm string `json:"algorithm"`
	// Name is that of the key's file in the running image, without .pub. It is empty where there is no such file.
	Name string `json:"name,omitempty"`
}

// Signature is a key's over a release.
type Signature struct {
	Key
	// Trusted says that the key is one of [Trust].Keys, and has signed this release. Signatures of other keys cannot
	// be verified: their public keys are not here.
	Trusted bool `json:"trusted"`
}

// Acceptance is a requirement of a policy that an image has met.
type Acceptance struct {
	// Scope is the scope of the policy that the image was in, such as "transports.docker registry.example/os", or
	// "default".
	Scope string `json:"scope"`
	// Requirement is its type, such as "sigstoreSigned" or "insecureAcceptAnything".
	Requirement string `json:"requirement"`
	// Signers are who has signed the image, for this requirement: the file and digest of a key, or an identity with
	// who says so. None where the requirement asks for no signature.
	Signers []string `json:"signers,omitempty"`
}

// String says in words what has accepted an image.
func (a Acceptance) String() string {
	line := a.Requirement + " (" + a.Scope + ")"
	if len(a.Signers) > 0 {
		line += ", signed by " + strings.Join(a.Signers, ", ")
	}
	return line
}

// Failure is why a release failed.
type Failure struct {
	Reason string `json:"reason"`
	Log    string `json:"log,omitempty"` // last lines of the console
}

// ConfigProblem is a part of the cloud-config that did not take effect.
type ConfigProblem struct {
	Where   string `json:"where,omitempty"` // file and line
	Path    string `json:"path,omitempty"`  // key, such as users[0].passwd
	Message string `json:"message"`
	Stage   string `json:"stage,omitempty"` // the stage that failed
}
