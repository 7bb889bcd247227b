package gpt

import (
	"fmt"
	"os"

	"github.com/kairos-buildkit/kairos/internal/blockdev"
)

// ReadDevice reads the table of a disk's device.
func ReadDevice(device string) (*Table, error) {
	f, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sectorSize, err := blockdev.SectorSize(f)
	if err != nil {
		return nil, err
	}
	size, err := blockdev.Size(f)
	if err != nil {
		return nil, err
	}
	return Read(f, size, sectorSize)
}

// Heal makes both copies of a disk's table what t is, which was read from it, and has the kernel look again: it takes
// no partitions from a disk whose primary table is damaged. See [Table.Write] for a power cut in between.
func Heal(device string, t *Table) error {
	damage := t.Damage
	fail := func(err error) error { return fmt.Errorf("%s: %s: heal it: %w", device, damage, err) }
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	if err := t.Write(f); err != nil {
		return fail(err)
	}
	if damage == PrimaryDamaged {
		if err := blockdev.RereadPartitions(f); err != nil {
			return fail(err)
		}
	}
	return nil
}

// GrowLast lets the partition with that name take the space behind it, if it is the disk's last one: a raw disk is
// smaller than the disk that it was written to. It does so again when a virtual disk was enlarged. The kernel is told.
func GrowLast(device string, t *Table, name string) error {
	p, changed := t.Grow(name)
	if !changed {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("grow partition %s of %s: %w", name, device, err) }
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	if err := t.Write(f); err != nil {
		return fail(err)
	}
	if err := blockdev.ResizePartition(f, p.Number, p.First*t.SectorSize,
		(p.Last-p.First+1)*t.SectorSize); err != nil {
		return fail(err)
	}
	return nil
}
