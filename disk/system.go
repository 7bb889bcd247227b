package disk

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kairos-buildkit/kairos/layout"
)

// System is what an installed disk holds: one release that boots, and the same release as
// the recovery system. A raw image and an installation differ in nothing but its values.
//
//	efi         systemd-boot, two UKIs (system and recovery), GRUB's files, kernel and initrd for GRUB
//	oem         cloud-config
//	recovery    store with the release
//	state       store with the release, and room for another one
//	persistent  empty, the rest of the disk
type System struct {
	Release layout.Release
	// Store lists the files of a store with the release, by their paths in it.
	Store []File
	// Boot files of the release. Kernel and initrd are for GRUB.
	UKI, Kernel, Initrd []byte
	Cmdline             string
	// SystemdBoot is the boot loader for UEFI.
	SystemdBoot []byte
	// BootImage and CoreImage are GRUB's, nil for architectures without BIOS.
	BootImage, CoreImage []byte
	// OEM lists the files of the OEM partition.
	OEM []File
	// Blessed has the release boot without try counter.
	Blessed bool

	Time time.Time
	// Seed makes this disk's identifiers: equal seeds, equal disks.
	Seed []byte
	// Size is the disk's size in bytes, 0 for the smallest.
	Size int64
	// Sizes are partitions' sizes in bytes, by name, where they shall differ from the
	// default. Extra are partitions after the six.
	Sizes map[string]int64
	Extra []layout.Partition
}

// persistentMin is the size of the persistent partition on the smallest disk: enough to begin
// with, it grows to the real disk at the first boot.
const persistentMin = 64 << 20

// storeFree is what is left free in a store beside the room for another release, for logs,
// metadata and layers that are somewhat larger.
const storeFree = 32 << 20

// Disk returns the disk that holds the system.
func (s System) Disk() (Disk, error) {
	d := Disk{Size: s.Size, Seed: s.Seed, Time: s.Time, BootImage: s.BootImage, CoreImage: s.CoreImage}
	esp, err := s.esp()
	if err != nil {
		return d, err
	}
	stored := int64(0)
	for _, f := range s.Store {
		stored += f.Size
	}
	unknown := maps.Clone(s.Sizes)
	for _, p := range layout.Partitions() {
		part := Partition{Partition: p}
		switch p.Name {
		case "efi":
			part.Files = esp
		case "oem":
			part.Files = s.OEM
		case "recovery", "state":
			part.Files, part.Free = s.Store, stored+storeFree
		case "persistent":
			part.Rest, part.Size = true, persistentMin
		}
		if size, ok := s.Sizes[p.Name]; ok && size > 0 {
			part.Size, part.Rest = size, false
		}
		delete(unknown, p.Name)
		d.Partitions = append(d.Partitions, part)
	}
	for _, p := range s.Extra {
		d.Partitions = append(d.Partitions, Partition{Partition: p})
	}
	if len(unknown) > 0 {
		return d, fmt.Errorf("lay out disk: no partition has the name %s", slices.Sorted(maps.Keys(unknown))[0])
	}
	return d, nil
}

// esp lists the files of the EFI system partition.
func (s System) esp() ([]File, error) {
	id := s.Release.ID()
	loader, err := layout.EFIDefaultPath(s.Release.Arch)
	if err != nil {
		return nil, err
	}
	if len(s.UKI) == 0 || len(s.SystemdBoot) == 0 {
		return nil, errors.New("lay out disk: the UKI or the boot loader is missing")
	}
	system := layout.Entry{Seq: layout.RecoverySeq + 1, ID: id}
	if !s.Blessed {
		system.Counted, system.Left = true, layout.Tries
	}
	recovery := layout.Entry{Seq: layout.RecoverySeq, ID: id}
	files := []File{
		Bytes(loader, s.SystemdBoot),
		Bytes(layout.LoaderConfig, []byte(layout.LoaderConfigText)),
		Bytes(layout.UKIReadme, []byte(layout.UKIReadmeText)),
		Bytes(layout.UKIDir+"/"+system.String(), s.UKI),
		Bytes(layout.UKIDir+"/"+recovery.String(), s.UKI),
	}
	if len(s.CoreImage) == 0 {
		return files, nil
	}
	env, err := layout.GrubState{Entries: []layout.Entry{system}, Recovery: id}.Marshal()
	if err != nil {
		return nil, err
	}
	dir := layout.GrubKernelDir + "/" + id
	return append(files,
		Bytes(layout.GrubConfig, layout.GrubDiskConfig()),
		Bytes(layout.GrubEnv, env),
		Bytes(dir+"/vmlinuz", s.Kernel),
		Bytes(dir+"/initrd", s.Initrd),
		Bytes(dir+"/entry.cfg", layout.GrubEntry(s.Cmdline)),
	), nil
}
