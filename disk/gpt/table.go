// Package gpt reads, checks, changes, heals and writes GUID partition tables; go-diskfs has the format.
//
//	sector 0       protective master boot record
//	sector 1       header: its own place, the copy's, the entries', checksums of itself and of the entries
//	sector 2…      128 entries of 128 bytes: type, GUID, first and last sector, name
//	last sectors   copy of the entries, and a header for it in the very last one
//
// Reference: UEFI specification 2.10, chapter 5.3.
package gpt

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// Table is a disk's GUID partition table.
type Table struct {
	SectorSize, Sectors int64 // of the disk; a sector has SectorSize bytes
	Partitions          []Partition
	// Damage says which of the two copies of the table does not hold.
	Damage Damage

	table *gpt.Table
	// foreign says why the table is not written, where something about it is not as we would write it.
	foreign error
	// last is the sector that the copy ends at.
	last int64
}

// Partition is an entry of the table.
type Partition struct {
	Number      int    // from 1
	GUID        string // in lower case, as Linux writes it
	Type        string // GUID, in upper case
	Name        string // at most 36 UTF-16 units
	First, Last int64  // sectors, both included
}

// Damage is what is wrong with a table that can be read.
type Damage string

// The kinds of damage. [Table.Write] heals all of them.
const (
	Sound           Damage = ""
	PrimaryDamaged  Damage = "the primary table is damaged"
	BackupDamaged   Damage = "the table's copy at the end of the disk is damaged"
	BackupDifferent Damage = "the table's copy at the end of the disk differs from it"
)

const (
	entrySize  = 128
	entryCount = 128
	maxEntries = 1024
	maxName    = 36 // UTF-16 units
)

// entriesSize returns the sectors of the entries of a new table.
func entriesSize(sectorSize int64) int64 { return entryCount * entrySize / sectorSize }

// New returns a table for a disk of a number of sectors, with a GUID of its own.
func New(guid string, sectors, sectorSize int64, parts []Partition) (*Table, error) {
	if len(parts) > entryCount {
		return nil, fmt.Errorf("%d partitions, more than %d", len(parts), entryCount)
	}
	g := &Table{SectorSize: sectorSize, Sectors: sectors, last: sectors - 1, Partitions: parts}
	first, last := 2+entriesSize(sectorSize), sectors-2-entriesSize(sectorSize)
	g.table = &gpt.Table{LogicalSectorSize: int(sectorSize), PhysicalSectorSize: int(sectorSize), GUID: guid}
	for _, p := range parts {
		if n := len(utf16.Encode([]rune(p.Name))); n > maxName {
			return nil, fmt.Errorf("partition %s: the name has more than %d characters", p.Name, maxName)
		}
		if p.First < first || p.Last < p.First || p.Last > last {
			return nil, fmt.Errorf(
				"partition %s: sectors %d to %d are outside the disk's %d to %d",
				p.Name,
				p.First,
				p.Last,
				first,
				last,
			)
		}
		g.table.Partitions = append(g.table.Partitions, &gpt.Partition{
			Index: p.Number, Start: uint64(p.First), End: uint64(p.Last),
			Size: uint64((p.Last - p.First + 1) * sectorSize),
			Type: gpt.Type(strings.ToUpper(p.Type)), GUID: p.GUID, Name: p.Name,
		})
	}
	return g, nil
}

// partitions takes over what go-diskfs has read.
func (g *Table) partitions() error {
	for _, p := range g.table.Partitions {
		q := Partition{
			Number: p.Index,
			GUID:   strings.ToLower(p.GUID),
			Type:   string(p.Type),
			Name:   p.Name,
			First:  int64(p.Start),
			Last:   int64(p.End),
		}
		if q.First < 2 || q.Last < q.First || q.Last >= g.last {
			return fmt.Errorf(
				"partition %d is not on the disk: sectors %d to %d of %d",
				q.Number,
				q.First,
				q.Last,
				g.Sectors,
			)
		}
		if strings.ContainsRune(q.Name, utf8.RuneError) {
			g.foreign = fmt.Errorf("partition %d has a name that is no text", q.Number)
		}
		if q.Last > int64(g.table.LastDataSector()) {
			g.foreign = fmt.Errorf("partition %d ends behind what the table says is usable", q.Number)
		}
		g.Partitions = append(g.Partitions, q)
	}
	return nil
}

// GUID returns the disk's GUID, in lower case.
func (g *Table) GUID() string { return strings.ToLower(g.table.GUID) }

// Renew gives the disk and each partition another GUID.
func (g *Table) Renew(guid func() string) {
	g.table.GUID = guid()
	for i := range g.Partitions {
		g.Partitions[i].GUID = guid()
		g.table.Partitions[i].GUID = g.Partitions[i].GUID
	}
}

// Place gives a partition, by its number, another place: sectors, both included. Whether that is free is the caller's
// to know.
func (g *Table) Place(number int, first, last int64) {
	for i := range g.Partitions {
		if p := &g.Partitions[i]; p.Number == number {
			p.First, p.Last = first, last
			q := g.table.Partitions[i]
			q.Start, q.End, q.Size = uint64(first), uint64(last), uint64((last-first+1)*g.SectorSize)
		}
	}
}

// Writable says why the table is not written, where something about it is not as we would write it.
func (g *Table) Writable() error { return g.foreign }

// Has says whether the table has a partition with this GUID.
func (g *Table) Has(guid string) bool {
	for _, p := range g.Partitions {
		if p.GUID == guid {
			return true
		}
	}
	return false
}

// Grow gives the partition with that name all space up to the end of the disk, if it is the last one and
// that is worth it. It returns the partition, and whether it changed.
func (g *Table) Grow(name string) (Partition, bool) {
	last := -1
	for i, p := range g.Partitions {
		if last < 0 || p.First > g.Partitions[last].First {
			last = i
		}
	}
	if last < 0 || g.Partitions[last].Name != name || g.foreign != nil {
		return Partition{}, false
	}
	const align, worthwhile = 1 << 20, 8 << 20
	entries := g.last - int64(g.table.LastDataSector()) - 1
	if g.last != g.Sectors-1 {
		entries = entriesSize(g.SectorSize)
	}
	lastUsable := g.Sectors - 1 - entries - 1
	perMiB := align / g.SectorSize
	end := (lastUsable + 1) / perMiB * perMiB
	p := &g.Partitions[last]
	if (end-1-p.Last)*g.SectorSize < worthwhile {
		return *p, false
	}
	p.Last = end - 1
	q := g.table.Partitions[last]
	q.End, q.Size = uint64(p.Last), uint64((p.Last-p.First+1)*g.SectorSize)
	g.table.Resize(uint64(g.Sectors * g.SectorSize))
	g.last = g.Sectors - 1
	return *p, true
}

// errNone says that a disk has no table.
var errNone = errors.New("no valid GUID partition table")
