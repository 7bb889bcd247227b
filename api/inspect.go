package api

import "time"

// Kinds of what `kairos inspect` looks at.
const (
	KindISO   = "iso"
	KindRaw   = "raw"
	KindQCOW2 = "qcow2"
	KindImage = "image" // a container image, which is on no medium yet
)

// Inspection is what `kairos inspect` found on a medium, or says of an image. Nothing of it is verified but what
// metadata say of themselves.
type Inspection struct {
	// Schema is [Schema].
	Schema int    `json:"schema"`
	Source string `json:"source"` // as it was named
	Kind   string `json:"kind"`   // one of the constants above
	// Size is in bytes: of a QEMU disk what the disk has, of an image what its layers have where it is.
	Size int64 `json:"size"`
	// SectorSize is that of a disk's logical sectors in bytes.
	SectorSize int64       `json:"sectorSize,omitempty"`
	Partitions []Partition `json:"partitions,omitempty"`
	Releases   []Release   `json:"releases"`
	// Entries are what the boot loader of a disk has, in the order in which it tries them.
	Entries   []BootEntry `json:"entries,omitempty"`
	BootFiles []BootFile  `json:"bootFiles,omitempty"`
	// Configs are the names of the cloud-configs on the medium, never their content.
	Configs []string `json:"configs,omitempty"`
	// Problems are what is damaged or cannot be seen, in words for a person.
	Problems []string `json:"problems,omitempty"`
}

// Partition is a partition of a disk, or a file system of an ISO.
type Partition struct {
	Number int    `json:"number,omitempty"` // from 1; of an ISO 0
	Name   string `json:"name,omitempty"`
	Type   string `json:"type,omitempty"` // GUID, in upper case
	GUID   string `json:"guid,omitempty"` // in lower case
	Start  int64  `json:"start"`          // in bytes
	Size   int64  `json:"size"`           // in bytes
	FS     string `json:"fs,omitempty"`   // "iso9660", "vfat" or "ext4"
	Label  string `json:"label,omitempty"`
}

// Places of a release on a medium, beside [PlaceState] and [PlaceRecovery].
const PlaceLive = "live" // of an ISO

// Release is a release on a medium, or the one that an image would become.
type Release struct {
	Release string `json:"release"` // id
	Version string `json:"version,omitempty"`
	// Place is the store: PlaceLive, PlaceState or PlaceRecovery; empty: an image.
	Place string `json:"place,omitempty"`
	// Role is "active", "passive", "failed", "recovery" or "live"; empty: nothing starts it.
	Role string `json:"role,omitempty"`
	// Image is the reference that the image was taken from, where that is known, ConfigDigest its identity.
	Image        string `json:"image,omitempty"`
	ConfigDigest string `json:"configDigest"`
	Arch         string `json:"arch"`
	// Created is when the image was made, or the release put on the medium.
	Created *time.Time        `json:"created,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"` // those of Kairos
	Cmdline string            `json:"cmdline,omitempty"`
	Kernel  string            `json:"kernel,omitempty"` // version, of an image that has a boot layer
	Layers  []Layer           `json:"layers"`           // the lowest first
	// Size is what the layers take in bytes, Shared how much of that other releases on the medium have as well.
	Size   int64 `json:"size"`
	Shared int64 `json:"shared,omitempty"`
}

// Layer is one layer of a release.
type Layer struct {
	DiffID string `json:"diffID"`
	// Size is in bytes: of a blob with its dm-verity tree; of an image's layer as it is stored there, 0 where that is
	// not known.
	Size int64 `json:"size"`
	// RootHash is the root of the dm-verity tree, 64 hex digits; an image has none before it is converted.
	RootHash string `json:"rootHash,omitempty"`
	// SharedWith are the ids of other releases on the medium that have the layer.
	SharedWith []string `json:"sharedWith,omitempty"`
}

// BootEntry is what a boot loader can start.
type BootEntry struct {
	Release   string `json:"release"`  // id
	Sequence  uint32 `json:"sequence"` // the highest is tried first; 0 is the recovery system
	Blessed   bool   `json:"blessed"`
	TriesLeft int    `json:"triesLeft"`
	TriesUsed int    `json:"triesUsed"`
}

// BootFile is a file that a firmware or a boot loader reads, or an image's boot layer has.
type BootFile struct {
	Path string `json:"path"`
	Size int64  `json:"size"` // in bytes
	// Cmdline is the kernel command line of a UKI.
	Cmdline string `json:"cmdline,omitempty"`
}
