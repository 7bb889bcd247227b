package firstboot

import (
	"hash/crc32"

	"github.com/kairos-buildkit/kairos/disk/gpt"
	"github.com/kairos-buildkit/kairos/layout"
)

// renew gives the file system of one of our partitions another identifier.
func renew(d gpt.Disk, at, size int64, name string) error {
	for _, p := range layout.Partitions() {
		if p.Name != name {
			continue
		}
		switch p.FS {
		case "ext4":
			return renewExt4(d, at, size, p.Label)
		case "vfat":
			return renewFAT(d, at)
		}
	}
	return nil
}

// Places in an ext4 superblock (Linux, Documentation/filesystems/ext4, "Super Block").
const (
	superAt       = 1024
	superSize     = 1024
	superMagic    = 0x38
	superGroup    = 0x5a
	superIncompat = 0x60
	superROCompat = 0x64
	superUUID     = 0x68
	superLabel    = 0x78
	superChecksum = 0x3fc

	incompatSeed = 0x2000 // metadata_csum_seed: the UUID is no part of other checksums
	rocompatSums = 0x400
	groupSize    = 8 * 4096 * 4096
)

// renewExt4 changes the UUID in the superblock and each copy. One that has a file system of another kind is left
// alone.
func renewExt4(d gpt.Disk, at, size int64, label string) error {
	id := random()
	for group := int64(0); group*groupSize+superAt+superSize <= size; group++ {
		if !hasCopy(group) {
			continue
		}
		where := at + group*groupSize
		if group == 0 {
			where += superAt
		}
		b := make([]byte, superSize)
		if _, err := d.ReadAt(b, where); err != nil {
			return err
		}
		name := make([]byte, 16)
		copy(name, label)
		if le.Uint16(b[superMagic:]) != 0xef53 || int64(le.Uint16(b[superGroup:])) != group ||
			string(b[superLabel:superLabel+16]) != string(name) || le.Uint32(b[superIncompat:])&incompatSeed == 0 {
			if group == 0 {
				return nil
			}
			continue
		}
		copy(b[superUUID:], id[:])
		if le.Uint32(b[superROCompat:])&rocompatSums != 0 {
			le.PutUint32(b[superChecksum:], ^crc32.Checksum(b[:superChecksum], crc32.MakeTable(crc32.Castagnoli)))
		}
		if _, err := d.WriteAt(b, where); err != nil {
			return err
		}
	}
	return nil
}

// hasCopy says whether a group has the superblock or a copy of it (sparse_super).
func hasCopy(group int64) bool {
	if group <= 1 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}

// renewFAT changes the serial number of a FAT volume, in its boot sector and in the copy of FAT32 (Microsoft, FAT32
// File System Specification 1.03). Each is one write of a sector.
func renewFAT(d gpt.Disk, at int64) error {
	boot := make([]byte, 512)
	if _, err := d.ReadAt(boot, at); err != nil {
		return err
	}
	const extended = 0x29
	serial := 0x27
	sectors := []int64{0}
	if le.Uint16(boot[0x16:]) == 0 { // FAT32
		serial = 0x43
		if copyAt := int64(le.Uint16(boot[0x32:])); copyAt > 0 && copyAt < 32 {
			sectors = append(sectors, copyAt)
		}
	}
	bytesPerSector := int64(le.Uint16(boot[0x0b:]))
	if boot[510] != 0x55 || boot[511] != 0xaa || boot[serial-1] != extended ||
		bytesPerSector != 512 && bytesPerSector != 4096 {
		return nil
	}
	id := random()
	for _, s := range sectors {
		where := at + s*bytesPerSector
		if _, err := d.ReadAt(boot, where); err != nil {
			return err
		}
		if boot[510] != 0x55 || boot[511] != 0xaa || boot[serial-1] != extended {
			continue
		}
		copy(boot[serial:], id[:4])
		if _, err := d.WriteAt(boot, where); err != nil {
			return err
		}
	}
	return nil
}
