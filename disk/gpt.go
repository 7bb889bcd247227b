package disk

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
	"unicode/utf16"

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
	// Seed is what the GUIDs of disk, partitions and file systems are derived from.
	Seed []byte
	Time time.Time
	// GRUB's boot.img and core.img, both or none. core.img goes to the partition of type
	// [layout.TypeBIOSBoot].
	BootImage, CoreImage []byte
	Partitions           []Partition
}

// Partition is a partition and what its file system holds.
type Partition struct {
	layout.Partition // Size 0: the smallest that holds the files and Free bytes
	// Free is the number of bytes that are to be free where Size is 0.
	Free int64
	// Rest gives the partition what the disk has left, but not less than its size.
	Rest  bool
	Files []File
}

// Placed is a partition that has its place on the disk.
type Placed struct {
	Partition
	GUID  string // as Linux writes it: lower case
	Start int64  // in bytes
	Size  int64
}

const (
	lba          = 512
	gptEntries   = 128
	gptEntrySize = 128
	gptBlocks    = gptEntries * gptEntrySize / lba
	alignment    = 1 << 20
)

// SizeError says that a disk is too small.
type SizeError struct{ Have, Need int64 }

func (e *SizeError) Error() string {
	return fmt.Sprintf("the disk has %d MiB (%d bytes), and %d MiB (%d bytes) are needed", e.Have>>20, e.Have, e.Need>>20, e.Need)
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
func (d Disk) Image() (*Image, error) {
	m, err := d.image()
	if err != nil {
		return nil, fmt.Errorf("lay out disk: %w", err)
	}
	return m, nil
}

func (d Disk) image() (*Image, error) {
	size, placed, err := d.Place()
	if err != nil {
		return nil, err
	}
	m := &Image{Size: size}
	if err := d.addTables(m, placed); err != nil {
		return nil, err
	}
	for _, p := range placed {
		var sub *Image
		switch p.FS {
		case "":
			sub, err = d.unformatted(p)
		case "ext4":
			sub, err = d.ext4(p.Partition, p.Size).Image()
		case "vfat":
			id := derive(d.Seed, "file system "+p.Name)
			sub, err = FAT{Label: p.Label, Serial: le.Uint32(id[:]), Size: p.Size, Hidden: uint32(p.Start / lba), Time: d.Time, Files: p.Files}.Image()
		default:
			err = fmt.Errorf("file system %q: want ext4 or vfat", p.FS)
		}
		if err != nil {
			return nil, fmt.Errorf("partition %s: %w", p.Name, err)
		}
		m.AddImage(p.Start, sub)
	}
	return m, m.zeroGaps(placed)
}

// unformatted is a partition without a file system: GRUB's, or empty.
func (d Disk) unformatted(p Placed) (*Image, error) {
	m := &Image{Size: p.Size}
	if p.Type != layout.TypeBIOSBoot || len(d.CoreImage) == 0 {
		return m, nil
	}
	if int64(len(d.CoreImage)) > p.Size || len(d.CoreImage) < 2*lba {
		return nil, fmt.Errorf("GRUB's core.img has %d bytes, and the partition %d", len(d.CoreImage), p.Size)
	}
	core := append([]byte(nil), d.CoreImage...)
	le.PutUint64(core[diskbootList:], uint64(p.Start/lba+1))
	m.addBytes(0, "core.img", core)
	return m, nil
}

// zeroGaps clears where older file systems and tables would be found: the beginning of the
// disk and of each partition, and the end of the disk.
func (m *Image) zeroGaps(placed []Placed) error {
	ranges := []run{{0, alignment}, {m.Size - alignment, alignment}}
	for _, p := range placed {
		ranges = append(ranges, run{p.Start, min(p.Size, alignment)})
	}
	for _, r := range ranges {
		if err := m.zeroGapsIn(r.at, r.count); err != nil {
			return err
		}
	}
	return nil
}

// addTables writes boot record and partition tables.
func (d Disk) addTables(m *Image, placed []Placed) error {
	if len(placed) > gptEntries {
		return fmt.Errorf("%d partitions, more than %d", len(placed), gptEntries)
	}
	if (len(d.BootImage) == 0) != (len(d.CoreImage) == 0) {
		return errors.New("BIOS boot takes both boot.img and core.img")
	}
	last := m.Size/lba - 1
	mbr := make([]byte, lba)
	if len(d.BootImage) > 0 {
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
	m.addBytes(0, "master boot record", mbr)

	entries, err := d.entries(placed)
	if err != nil {
		return err
	}
	id := derive(d.Seed, "disk")
	m.addBytes(1*lba, "GPT header", gptHeader(id, entries, 1, last, last, 2))
	m.addBytes(2*lba, "GPT entries", entries)
	m.addBytes((last-gptBlocks)*lba, "GPT entries' copy", entries)
	m.addBytes(last*lba, "GPT header's copy", gptHeader(id, entries, last, 1, last, last-gptBlocks))
	return nil
}

func (d Disk) entries(placed []Placed) ([]byte, error) {
	b := make([]byte, gptEntries*gptEntrySize)
	for i, p := range placed {
		e := b[i*gptEntrySize:][:gptEntrySize]
		kind, err := parseGUID(p.Type)
		if err != nil {
			return nil, fmt.Errorf("partition %s: %w", p.Name, err)
		}
		id := derive(d.Seed, "partition "+p.Name)
		putGUID(e[0:], kind)
		putGUID(e[16:], id)
		le.PutUint64(e[32:], uint64(p.Start/lba))
		le.PutUint64(e[40:], uint64((p.Start+p.Size)/lba-1))
		name := utf16.Encode([]rune(p.Name))
		if len(name) > 36 {
			return nil, fmt.Errorf("partition %s: the name has more than 36 characters", p.Name)
		}
		for k, c := range name {
			le.PutUint16(e[56+2*k:], c)
		}
	}
	return b, nil
}

// gptHeader makes the header at block self, whose copy is at other.
func gptHeader(id [16]byte, entries []byte, self, other, last, entriesAt int64) []byte {
	b := make([]byte, lba)
	copy(b, "EFI PART\x00\x00\x01\x00")
	le.PutUint32(b[12:], 92)
	le.PutUint64(b[24:], uint64(self))
	le.PutUint64(b[32:], uint64(other))
	le.PutUint64(b[40:], 2+gptBlocks)              // first block of partitions
	le.PutUint64(b[48:], uint64(last-gptBlocks-1)) // last one
	putGUID(b[56:], id)
	le.PutUint64(b[72:], uint64(entriesAt))
	le.PutUint32(b[80:], gptEntries)
	le.PutUint32(b[84:], gptEntrySize)
	le.PutUint32(b[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:92]))
	return b
}

// putGUID writes a UUID as GPT has it: its first three numbers are little-endian.
func putGUID(b []byte, id [16]byte) {
	le.PutUint32(b[0:], be.Uint32(id[0:]))
	le.PutUint16(b[4:], be.Uint16(id[4:]))
	le.PutUint16(b[6:], be.Uint16(id[6:]))
	copy(b[8:16], id[8:])
}

func parseGUID(s string) (id [16]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return id, fmt.Errorf("%q is not a GUID", s)
	}
	return [16]byte(b), nil
}

func guid(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
}
