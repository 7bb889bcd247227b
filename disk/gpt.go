package disk

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/gpt"
	"github.com/kairos-buildkit/kairos/disk/sparse"
	"github.com/kairos-buildkit/kairos/layout"
)

// Disk describes a disk with a GUID partition table, and file systems in its partitions.
//
//	512-byte block
//	0     protective master boot record, with GRUB's boot code
//	1     GPT header · 2…33 its 128 entries
//	2048  partitions, each aligned to 1 MiB
//	end   copy of the entries · copy of the header
//
// UEFI specification 2.10, chapter 5.
type Disk struct {
	// Size is the disk's size in bytes. Zero is the smallest that holds the partitions.
	Size int64
	// SectorSize is the size of the disk's logical sectors in bytes: 512, which 0 stands for, or 4096. No BIOS starts
	// a disk with the latter, so that it gets no boot code for one.
	SectorSize int64
	// Seed is what the GUIDs of disk, partitions and file systems are derived from.
	Seed []byte
	Time time.Time
	// GRUB's boot.img and core.img, both or none. core.img goes to the partition of type
	// [layout.TypeBIOSBoot].
	BootImage, CoreImage []byte
	Partitions           []Partition
	// FirstBoot is left for the first boot; its Disk is set here. Nil: nothing.
	FirstBoot *layout.FirstBoot
}

// Partition is a partition and what its file system holds.
type Partition struct {
	layout.Partition // Size 0: the smallest that holds the files and Free bytes
	// Free is the number of bytes that are to be free where Size is 0.
	Free int64
	// Wish is the size in bytes that it gets where the disk has room: all of it on the smallest disk, and not more
	// than half of what a given one has left for whoever takes the rest.
	Wish int64
	// Rest gives the partition what the disk has left, but not less than its size.
	Rest  bool
	Files []filetree.File
}

// Placed is a partition that has its place on the disk.
type Placed struct {
	Partition
	GUID  string // as Linux writes it: lower case
	Start int64  // in bytes
	Size  int64
}

const (
	lba       = 512 // a sector, where a disk does not say otherwise
	alignment = 1 << 20
)

// SizeError says that a disk is too small.
type SizeError struct{ Have, Need int64 }

func (e *SizeError) Error() string {
	return fmt.Sprintf(
		"the disk has %d MiB (%d bytes), and %d MiB (%d bytes) are needed",
		e.Have>>20,
		e.Have,
		e.Need>>20,
		e.Need,
	)
}

func (d Disk) sector() int64 {
	if d.SectorSize == 0 {
		return lba
	}
	return d.SectorSize
}

// Place gives every partition its place.
func (d Disk) Place() (size int64, placed []Placed, err error) {
	need := int64(alignment)
	rest := -1
	for i, p := range d.Partitions {
		if p.Partition.Size == 0 {
			if p.Partition.Size, err = d.minSize(p); err != nil {
				return 0, nil, fmt.Errorf("partition %s: %w", p.Name, err)
			}
		}
		if p.Rest {
			if rest >= 0 {
				return 0, nil, errors.New("two partitions want the rest of the disk")
			}
			rest = i
		}
		id := derive(d.Seed, "partition "+p.Name)
		if d.Size == 0 {
			p.Partition.Size = max(p.Partition.Size, p.Wish)
		}
		placed = append(placed, Placed{Partition: p, GUID: guid(id), Size: align(p.Partition.Size, alignment)})
		need += placed[i].Size
	}
	need += alignment // the copy of the table, with room to spare
	size = d.Size
	if size == 0 {
		size = need
	}
	if size < need {
		return 0, nil, &SizeError{size, need}
	}
	for i, p := range placed {
		if more := min(align(p.Wish, alignment)-p.Size, (size-need)/2/alignment*alignment); more > 0 {
			placed[i].Size += more
			need += more
		}
	}
	if rest >= 0 {
		placed[rest].Size += (size - need) / alignment * alignment
	}
	at := int64(alignment)
	for i := range placed {
		placed[i].Start = at
		at += placed[i].Size
	}
	return size, placed, nil
}

func (d Disk) minSize(p Partition) (int64, error) {
	if p.FS != "ext4" {
		return 0, errors.New("it has no size")
	}
	return d.ext4(p, 0).MinSize(p.Free)
}

func (d Disk) ext4(p Partition, size int64) Ext4 {
	return Ext4{Label: p.Label, UUID: derive(d.Seed, "file system "+p.Name), Size: size, Time: d.Time, Files: p.Files}
}

// Image lays the disk out.
func (d Disk) Image() (*sparse.Image, error) {
	m, err := d.image()
	if err != nil {
		return nil, fmt.Errorf("lay out disk: %w", err)
	}
	return m, nil
}

func (d Disk) image() (*sparse.Image, error) {
	if n := d.sector(); n != 512 && n != 4096 {
		return nil, fmt.Errorf("sectors of %d bytes: disks have 512 or 4096", n)
	}
	size, placed, err := d.Place()
	if err != nil {
		return nil, err
	}
	m := &sparse.Image{Size: size}
	if err := d.addTables(m, placed); err != nil {
		return nil, err
	}
	for _, p := range placed {
		var sub *sparse.Image
		switch p.FS {
		case "":
			sub, err = d.unformatted(p)
		case "ext4":
			sub, err = d.ext4(p.Partition, p.Size).Image()
		case "vfat":
			id := derive(d.Seed, "file system "+p.Name)
			sub, err = fat.FileSystem{
				Label:      p.Label,
				Serial:     le.Uint32(id[:]),
				Size:       p.Size,
				SectorSize: d.sector(),
				Hidden:     hidden(p.Start / d.sector()),
				Time:       d.Time,
				Files:      p.Files,
			}.Image()
		default:
			err = fmt.Errorf("file system %q: want ext4 or vfat", p.FS)
		}
		if err != nil {
			return nil, fmt.Errorf("partition %s: %w", p.Name, err)
		}
		m.AddImage(p.Start, sub)
	}
	return m, clearOld(m, placed)
}

// hidden is what a boot sector says of the sectors before it; nothing, where that takes more than 32 bits.
func hidden(sectors int64) uint32 {
	if sectors > math.MaxUint32 {
		return 0
	}
	return uint32(sectors)
}

// unformatted is a partition without a file system: GRUB's, or empty.
func (d Disk) unformatted(p Placed) (*sparse.Image, error) {
	m := &sparse.Image{Size: p.Size}
	if p.Type != layout.TypeBIOSBoot || len(d.CoreImage) == 0 || d.sector() != lba {
		return m, nil
	}
	if int64(len(d.CoreImage)) > p.Size || len(d.CoreImage) < 2*lba {
		return nil, fmt.Errorf("GRUB's core.img has %d bytes, and the partition %d", len(d.CoreImage), p.Size)
	}
	core := append([]byte(nil), d.CoreImage...)
	le.PutUint64(core[diskbootList:], uint64(p.Start/lba+1))
	m.AddBytes(0, "core.img", core)
	return m, nil
}

// clearOld clears where older file systems and tables would be found: the beginning of the
// disk and of each partition, and the end of the disk.
func clearOld(m *sparse.Image, placed []Placed) error {
	ranges := []run{{0, alignment}, {m.Size - alignment, alignment}}
	for _, p := range placed {
		ranges = append(ranges, run{p.Start, min(p.Size, alignment)})
	}
	for _, r := range ranges {
		if err := m.ZeroGaps(r.at, r.count); err != nil {
			return err
		}
	}
	return nil
}

// addTables writes boot record and partition tables.
func (d Disk) addTables(m *sparse.Image, placed []Placed) error {
	if (len(d.BootImage) == 0) != (len(d.CoreImage) == 0) {
		return errors.New("BIOS boot takes both boot.img and core.img")
	}
	last := m.Size/d.sector() - 1
	mbr := make([]byte, lba)
	if len(d.BootImage) > 0 && d.sector() == lba {
		if len(d.BootImage) != lba {
			return fmt.Errorf("boot.img has %d bytes, want %d", len(d.BootImage), lba)
		}
		copy(mbr[:mbrCode], d.BootImage)
		for _, p := range placed {
			if p.Type == layout.TypeBIOSBoot {
				le.PutUint64(mbr[0x5c:], uint64(p.Start/lba))
			}
		}
		// GRUB's setup takes this jump out for hard disks: the BIOS's drive number is right.
		mbr[0x66], mbr[0x67] = 0x90, 0x90
	}
	mbrPartition(mbr, 0, false, 0xee, 1, uint32(min(last, 1<<32-1)))
	e := mbr[446:]
	e[1], e[2], e[3] = 0x00, 0x02, 0x00 // as the specification has it for this entry
	e[5], e[6], e[7] = 0xff, 0xff, 0xff
	mbr[510], mbr[511] = 0x55, 0xaa
	m.AddBytes(0, "master boot record", mbr)

	id := guid(derive(d.Seed, "disk"))
	if d.FirstBoot != nil {
		m.AddBytes(
			layout.FirstBootAt,
			"record for the first boot",
			layout.FirstBoot{Disk: id, State: d.FirstBoot.State}.Marshal(),
		)
	}
	table, err := gpt.New(id, m.Size/d.sector(), d.sector(), d.entries(placed))
	if err != nil {
		return err
	}
	chunks, err := table.Chunks()
	if err != nil {
		return err
	}
	for _, c := range chunks {
		m.AddBytes(c.At, "partition table", c.Data)
	}
	return nil
}

// entries are the partitions as the table has them.
func (d Disk) entries(placed []Placed) (all []gpt.Partition) {
	for i, p := range placed {
		all = append(all, gpt.Partition{
			Number: i + 1, GUID: p.GUID, Type: p.Type, Name: p.Name, First: p.Start / d.sector(),
			Last: (p.Start+p.Size)/d.sector() - 1,
		})
	}
	return all
}

func guid(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
}
