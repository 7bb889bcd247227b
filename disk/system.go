package disk

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
)

// System is what an installed disk holds: one release that boots, and the same release as
// the recovery system. A raw disk and an installation differ in nothing but its values.
//
//	efi         systemd-boot, two UKIs (system and recovery), GRUB's files, kernel and initrd for GRUB
//	oem         cloud-config
//	recovery    store with the release
//	state       store with the release, and room for others
//	persistent  empty, the rest of the disk
type System struct {
	Release layout.Release
	// Store lists the files of a store with the release, by their paths in it.
	Store []filetree.File
	// Boot files of the release. Kernel and initrd are for GRUB.
	UKI, Kernel, Initrd []byte
	Cmdline             string
	// Name is what boot menus call the release.
	Name string
	// SystemdBoot is the boot loader for UEFI.
	SystemdBoot []byte
	// BootImage and CoreImage are GRUB's, nil for architectures without BIOS.
	BootImage, CoreImage []byte
	// OEM lists the files of the OEM partition.
	OEM []filetree.File
	// Blessed has the release boot without try counter.
	Blessed bool
	// Portable is for an image that is written to disks of any size, maybe several: at its first boot the disk gets
	// identifiers of its own, and, without a Size, STATE the size that an installation there gives it.
	Portable bool

	Time time.Time
	// Seed makes this disk's identifiers: equal seeds, equal disks.
	Seed []byte
	// Size is the disk's size in bytes, 0 for the smallest, SectorSize that of its logical sectors, 0 for 512.
	Size, SectorSize int64
	// Sizes are partitions' sizes in bytes, by name, where they shall differ from the
	// default. Extra are partitions after the six; Size 0 is the rest of the disk.
	Sizes map[string]int64
	Extra []layout.Partition
	// Encrypted are the names of partitions that are left without a file system: whoever writes the disk puts a
	// LUKS2 volume there, with the file system of [System.Inside] in it.
	Encrypted []string
}

// persistentMin is the size of the persistent partition on the smallest disk: enough to begin
// with, it grows to the real disk at the first boot.
const persistentMin = 64 << 20

// storeFree is what is left free in a store beside the room for another release, for logs,
// metadata and layers that are somewhat larger.
const storeFree = 32 << 20

// Disk returns the disk that holds the system.
func (s System) Disk() (Disk, error) {
	d := Disk{
		Size:       s.Size,
		SectorSize: s.SectorSize,
		Seed:       s.Seed,
		Time:       s.Time,
		BootImage:  s.BootImage,
		CoreImage:  s.CoreImage,
	}
	if s.Portable {
		d.FirstBoot = &layout.FirstBoot{}
	}
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
		case "recovery":
			part.Files, part.Free = s.Store, stored+storeFree
		case "state":
			part.Files, part.Free = s.Store, stored+storeFree
			least := layout.StateImages*stored + storeFree
			part.Wish = layout.StateSize(least, s.Size)
			if s.Portable && s.Size == 0 && s.Sizes["state"] == 0 {
				part.Wish, d.FirstBoot.State = 0, least
			}
		case "persistent":
			part.Rest, part.Size = true, persistentMin
		}
		if size, ok := s.Sizes[p.Name]; ok && size > 0 {
			part.Size, part.Wish, part.Rest = size, 0, false
		}
		delete(unknown, p.Name)
		if slices.Contains(s.Encrypted, p.Name) {
			part.FS, part.Files = "", nil
		}
		d.Partitions = append(d.Partitions, part)
	}
	for _, p := range s.Extra {
		part := Partition{Partition: p, Rest: p.Size == 0}
		if part.Rest {
			part.Size = persistentMin
		}
		d.Partitions = append(d.Partitions, part)
	}
	if len(unknown) > 0 {
		return d, fmt.Errorf("lay out disk: no partition has the name %s", slices.Sorted(maps.Keys(unknown))[0])
	}
	return d, nil
}

// Inside returns the file system of a partition that is encrypted, for a volume of some size in bytes.
func (s System) Inside(name string, size int64) Ext4 {
	e := Ext4{Label: layout.LabelOf(name), UUID: derive(s.Seed, "file system "+name), Size: size, Time: s.Time}
	if name == "oem" {
		e.Files = s.OEM
	}
	return e
}

// esp lists the files of the EFI system partition.
func (s System) esp() ([]filetree.File, error) {
	content, err := loader.Content(
		loader.Programs{Arch: s.Release.Arch, SystemdBoot: s.SystemdBoot, Grub: len(s.CoreImage) > 0},
		s.Release.ID(),
		loader.BootFiles{UKI: s.UKI, Kernel: s.Kernel, Initrd: s.Initrd, Cmdline: s.Cmdline,
			Name: s.Name},
		s.Blessed,
	)
	if err != nil {
		return nil, fmt.Errorf("lay out disk: %w", err)
	}
	var files []filetree.File
	for _, f := range content {
		files = append(files, filetree.Bytes(f.Path, f.Data))
	}
	return files, nil
}
