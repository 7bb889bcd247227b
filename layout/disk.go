package layout

// Labels of volumes and file systems. They are the Kairos project's, so that its
// tools and its users' habits keep working.
const (
	LabelLive       = "COS_LIVE"       // ISO 9660 volume of live media
	LabelESP        = "COS_GRUB"       // vfat: boot loaders, UKIs, GRUB's files
	LabelOEM        = "COS_OEM"        // ext4: cloud-config files
	LabelRecovery   = "COS_RECOVERY"   // ext4: store with one release
	LabelState      = "COS_STATE"      // ext4: store with the active and the passive release
	LabelPersistent = "COS_PERSISTENT" // ext4: /usr/local and the persistent binds
)

// Partition is one entry of the disk's GPT.
type Partition struct {
	Name  string // GPT partition name
	Label string // file system label, "" where there is no file system
	Type  string // GPT partition type GUID
	FS    string // "", "vfat" or "ext4"
	Size  int64  // default size in bytes; 0: computed from the content, or the rest of the disk
}

// Partition type GUIDs, UEFI specification 2.10 section 5.3.3 and the Discoverable
// Partitions Specification.
const (
	TypeBIOSBoot = "21686148-6449-6E6F-744E-656564454649"
	TypeESP      = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	TypeLinux    = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
)

const mib = 1 << 20

// Partitions lists an installed disk's partitions in their order on the disk.
func Partitions() []Partition {
	return []Partition{
		{Name: "bios", Type: TypeBIOSBoot, Size: 1 * mib},
		{Name: "efi", Label: LabelESP, Type: TypeESP, FS: "vfat", Size: 512 * mib},
		{Name: "oem", Label: LabelOEM, Type: TypeLinux, FS: "ext4", Size: 64 * mib},
		{Name: "recovery", Label: LabelRecovery, Type: TypeLinux, FS: "ext4"},
		{Name: "state", Label: LabelState, Type: TypeLinux, FS: "ext4"},
		{Name: "persistent", Label: LabelPersistent, Type: TypeLinux, FS: "ext4"},
	}
}

// LabelOf returns the label of a partition's file system.
func LabelOf(partition string) string {
	for _, p := range Partitions() {
		if p.Name == partition {
			return p.Label
		}
	}
	return ""
}

// Encryptable are the names of the partitions that can be encrypted: what a node keeps of its own. The others have
// what is in the image, and what starts before a key is asked for.
func Encryptable() []string { return []string{"oem", "persistent"} }

// MapperName is the device mapper's name of a partition that is encrypted.
func MapperName(partition string) string { return "kairos-" + partition }

// OEMCloudConfig is the cloud-config in the OEM partition that came with the installation. The
// files there are read in the order of their names; this one comes late.
const OEMCloudConfig = "90_custom.yaml"
