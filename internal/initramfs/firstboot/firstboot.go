// Package firstboot makes a disk that a raw image was written to a disk of its own: with identifiers that no other
// copy of the image has, and with the partitions that an installation on it would have.
//
// In this order, each step fsynced before the next:
//
//	PERSISTENT   copied behind the place that STATE will have; it is empty, or has what somebody put there beforehand
//	identifiers  of the file systems: ext4's UUID, FAT's serial number
//	table        its copy, then itself: all new GUIDs and places at once
//
// The table is the commit. layout.FirstBoot counts as long as the table has the image's GUID, so until then the next
// boot begins again, with the same places; where the copy goes is free in the old table. A superblock whose identifier
// was being written may be torn, with a checksum that is wrong: nothing reads it before this has run to its end.
package firstboot

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"github.com/kairos-buildkit/kairos/disk/gpt"
	"github.com/kairos-buildkit/kairos/layout"
)

var le = binary.LittleEndian

const (
	alignment = 1 << 20
	// chunk is what is copied at once, in bytes.
	chunk = 1 << 20
	// mostCopied bounds PERSISTENT's size where it is moved: an image that was made for a size keeps its places.
	mostCopied = 1 << 30
)

// Pending says whether a disk with this table has not had its first boot yet.
func Pending(d gpt.Disk, t *gpt.Table) (layout.FirstBoot, bool) {
	b := make([]byte, layout.FirstBootSize)
	if n, _ := d.ReadAt(b, layout.FirstBootAt); n < len(b) {
		return layout.FirstBoot{}, false
	}
	f, err := layout.ParseFirstBoot(b)
	return f, err == nil && f.Disk == t.GUID()
}

// Adapt does all of it, and changes the table accordingly. The caller has the kernel look again.
func Adapt(d gpt.Disk, t *gpt.Table, f layout.FirstBoot) error {
	if err := t.Writable(); err != nil {
		return fmt.Errorf("first boot of a raw image: %w", err)
	}
	if err := adapt(d, t, f); err != nil {
		return fmt.Errorf("first boot of a raw image: %w", err)
	}
	return nil
}

func adapt(d gpt.Disk, t *gpt.Table, f layout.FirstBoot) error {
	was := map[string]gpt.Partition{}
	for _, p := range t.Partitions {
		was[p.Name] = p
	}
	move := plan(t, was, f)
	if move > 0 {
		state, persistent := was["state"], was["persistent"]
		if err := copyPartition(d, t.SectorSize, persistent, move); err != nil {
			return fmt.Errorf("move %s: %w", persistent.Name, err)
		}
		t.Place(state.Number, state.First, state.Last+move)
		t.Place(persistent.Number, persistent.First+move, persistent.Last+move)
	}
	for _, p := range t.Partitions {
		if err := renew(d, p.First*t.SectorSize, (p.Last-p.First+1)*t.SectorSize, p.Name); err != nil {
			return fmt.Errorf("identify the file system of %s: %w", p.Name, err)
		}
	}
	if err := d.Sync(); err != nil {
		return err
	}
	t.Renew(guid)
	t.Grow("persistent")
	return t.Write(d)
}

// plan returns by how many sectors STATE grows, so that it has what an installation on a disk of this size gives it
// (disk.Disk.Place).
func plan(t *gpt.Table, was map[string]gpt.Partition, f layout.FirstBoot) int64 {
	state, ok := was["state"]
	persistent, also := was["persistent"]
	if f.State == 0 || !ok || !also || persistent.First != state.Last+1 {
		return 0
	}
	for _, p := range t.Partitions {
		if p.First > persistent.First {
			return 0 // something behind it is in the way
		}
	}
	size, have := t.Sectors*t.SectorSize, (state.Last-state.First+1)*t.SectorSize
	need := (persistent.Last+1)*t.SectorSize + alignment
	wish := (layout.StateSize(f.State, size) + alignment - 1) / alignment * alignment
	more := min(wish-have, (size-need)/2/alignment*alignment) / t.SectorSize
	if length := persistent.Last - persistent.First + 1; more < length || length*t.SectorSize > mostCopied {
		return 0 // the copy would lie over what is copied, or it is no image that was made to grow
	}
	return more
}

// copyPartition copies a partition to a place some sectors behind it.
func copyPartition(d gpt.Disk, sectorSize int64, p gpt.Partition, by int64) error {
	from, end := p.First*sectorSize, (p.Last+1)*sectorSize
	b := make([]byte, chunk)
	for at := from; at < end; at += chunk {
		b := b[:min(chunk, end-at)]
		if _, err := d.ReadAt(b, at); err != nil {
			return err
		}
		if _, err := d.WriteAt(b, at+by*sectorSize); err != nil {
			return err
		}
	}
	return d.Sync()
}

// guid returns a random GUID, version 4.
func guid() string {
	b := random()
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func random() (b [16]byte) {
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return b
}
