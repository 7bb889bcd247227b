package layout

import (
	"encoding/json"
	"fmt"
)

// What /init leaves below /run for the system that it starts. Paths are relative to the
// root.
const (
	// RunDir belongs to Kairos.
	RunDir = "run/kairos"
	// RunBoot is a JSON file: what was booted, see [Boot].
	RunBoot = RunDir + "/boot.json"
	// RunTrust is the initrd's trust.json, where it has one: what the running system was refused or not by.
	RunTrust = RunDir + "/trust.json"
	// RunPrivate is a folder that only root enters: what is mounted below it holds a node's config, and programs that
	// a higher layer has removed.
	RunPrivate = RunDir + "/private"
	// RunStoreMount is where the file system with the booted store is mounted: STATE,
	// RECOVERY, or the live medium (whose store is in LiveRoot). It is read-only; the node
	// agent mounts it for itself when it has to write.
	RunStoreMount = RunPrivate + "/store"
	// RunStoreLink is a link to RunStoreMount, for what root sets up by hand, such as containerd's layer content
	// cache.
	RunStoreLink = RunDir + "/store"
	// RunKnown is what the last command saw on the partition that is not mounted otherwise: JSON, by release.
	RunKnown = RunDir + "/known.json"
	// RunHealthy is an empty file that `kairos-apply bless` makes when the health checks have passed. The guard that
	// /init leaves behind restarts the machine when it is missing after [Boot].Deadline seconds. RunBlessed follows
	// when the boot loader knows, which waits for whatever else is at work on the machine.
	RunHealthy = RunDir + "/healthy"
	RunBlessed = RunDir + "/blessed"
	// RunUnhealthy is an empty file that `kairos-apply bless` makes when it has written why the
	// release fails (see FailureDir), or that a recovery system on trial has come up, before it restarts the machine.
	// The guard then writes nothing, and ends a restart that hangs.
	RunUnhealthy = RunDir + "/unhealthy"
	// RunEject has the device of the live medium, where that is to be ejected at the end.
	RunEject = RunDir + "/eject"
	// RunSystemdTrial is what /init has systemd do on trial, see systemd-system.conf(5). A drop-in of the image's or
	// of the node's comes later, and counts.
	RunSystemdTrial = "run/systemd/system.conf.d/00-kairos-trial.conf"

	// RunDatasource is a folder that only root enters: the configs of the volumes that were attached to a live system.
	RunDatasource = RunDir + "/datasource"
	// RunCmd is a script: runcmd of the cloud-config, for a unit to run when the system is up.
	RunCmd = RunDir + "/runcmd"
	// RunStages has an empty file for each stage that the node's configs have steps for: its unit runs then.
	RunStages = RunDir + "/stages"
	// RunMetadata is an empty file: the node has no config, and asks its cloud's metadata service when the network is
	// up.
	RunMetadata = RunDir + "/metadata"
	// RunKeys is a JSON file: the public keys to fetch when the network is up, as a list of names such as github:NAME
	// for each user.
	RunKeys = RunDir + "/keys.json"
	// RunKeysMissing has, as RunProblems, those of them that could not be fetched yet, and why.
	RunKeysMissing = RunDir + "/keys-missing.json"
	// RunSentinels has one empty file that says what was booted, as the Kairos project's stages ask for it: live_mode,
	// recovery_mode, active_mode or passive_mode.
	RunSentinels = "run/cos"

	// FailureDir holds, in a store, one text file for each release that failed: its name is
	// <id>.txt, its first line says why, and the last lines of the console follow. Whoever
	// ends a boot writes it when it can (/init, the guard, the health checks).
	FailureDir = "failures"
	// RecoveryTrialPath is a file on STATE, JSON: why the last new recovery system that was tried is gone.
	RecoveryTrialPath = FailureDir + "/recovery-trial.json"
	// MaxFailureSize bounds such a file, in bytes.
	MaxFailureSize = 64 << 10

	// BlessDeadline is the number of seconds that a release on trial has to prove healthy,
	// counted from the start of /init.
	BlessDeadline = 600
)

// CmdlineDeadline is the number of seconds that a release on trial has to prove healthy,
// where that is not BlessDeadline.
const CmdlineDeadline = "kairos.deadline"

// FailurePath returns the path of a release's failure file, relative to the store.
func FailurePath(id string) string { return FailureDir + "/" + id + ".txt" }

// Boot roles, see [Boot].
const (
	RoleSystem   = "system"   // from STATE: whether that is active or passive shows on the ESP
	RoleRecovery = "recovery" // from RECOVERY
	RoleLive     = "live"     // from a live medium
)

// Firmware, see [Boot].
const (
	FirmwareUEFI = "uefi"
	FirmwareBIOS = "bios"
)

// PersistentInMemory is where what is persistent is while the partition cannot be used, see [Boot].
const PersistentInMemory = "memory"

// Boot says what was booted.
type Boot struct {
	Release  string `json:"release"`            // id
	Role     string `json:"role"`               // RoleSystem, RoleRecovery or RoleLive
	Firmware string `json:"firmware"`           // "uefi" or "bios"
	Entry    string `json:"entry,omitempty"`    // name of the UKI that was booted, with the counter that it had (UEFI)
	Trial    bool   `json:"trial,omitempty"`    // the loader counts: it must be blessed
	Deadline int    `json:"deadline,omitempty"` // seconds that the guard waits for RunBlessed; 0: no guard
	// Devices are the disk's partitions by their name ("efi", "oem", "recovery", "state",
	// "persistent"), as paths in /dev. On live media it is empty.
	Devices map[string]string `json:"devices,omitempty"`
	// Encrypted are the partitions that are encrypted, by their name. The device in Devices is that of the file system
	// in them, where one is open.
	Encrypted map[string]Encrypted `json:"encrypted,omitempty"`
	// Medium is the device of the live medium, such as /dev/sr0.
	Medium string `json:"medium,omitempty"`
	// Persistent is PersistentInMemory where PERSISTENT cannot be used, else empty.
	Persistent string `json:"persistent,omitempty"`
	// Problems are what /init could not do as the node's policy has it, in words for a person: such as a persistent
	// path that is not kept.
	Problems []string `json:"problems,omitempty"`
}

// Encrypted is a partition that is encrypted.
type Encrypted struct {
	Device string `json:"device"` // of the partition
	// UnlockedBy says what has opened it: "recovery key", "passphrase" or the type of a token; empty: nothing.
	UnlockedBy string `json:"unlockedBy,omitempty"`
}

// What opens an encrypted partition, beside tokens.
const (
	UnlockedByRecovery   = "recovery key"
	UnlockedByPassphrase = "passphrase"
)

// AsksForKey is what /init asks for, where it opens encrypted partitions: an older one does not have the words.
const AsksForKey = "Type the recovery key or the passphrase"

// TokenRecovery is the type of a recovery key's token in LUKS2, as systemd-cryptenroll(1) has it.
const TokenRecovery = "systemd-recovery"

// OnTrial says whether this is a recovery system that has to prove that it comes up.
func (b Boot) OnTrial() bool { return b.Role == RoleRecovery && b.Trial }

// ParseBoot reads RunBoot.
func ParseBoot(b []byte) (Boot, error) {
	var boot Boot
	if err := json.Unmarshal(b, &boot); err != nil {
		return Boot{}, fmt.Errorf("%s: %w", RunBoot, err)
	}
	return boot, nil
}

// Marshal returns the bytes of RunBoot.
func (b Boot) Marshal() []byte {
	out, _ := json.MarshalIndent(b, "", "  ") // strings, numbers and a map of strings cannot fail
	return append(out, '\n')
}
