package gpt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

var le = binary.LittleEndian

// Places in a header.
const (
	headerMy        = 24
	headerAlternate = 32
	headerEntries   = 72
	headerCount     = 80
	headerEntrySize = 84
)

// Read reads the table of a disk of a size in bytes, with sectors of sectorSize bytes: the one at its start, or if
// that is damaged, or cannot be read, the copy at its end. Both are looked at: Damage says what was found.
func Read(r io.ReaderAt, size, sectorSize int64) (*Table, error) {
	if sectorSize < 512 || sectorSize > 4096 || sectorSize&(sectorSize-1) != 0 {
		return nil, fmt.Errorf("sectors of %d bytes", sectorSize)
	}
	g := &Table{SectorSize: sectorSize, Sectors: size / sectorSize}
	if g.Sectors < 2*(2+entriesSize(sectorSize)) {
		return nil, errors.New("the disk is too small for a partition table")
	}
	g.last = g.Sectors - 1
	whole := &view{r: r, sectors: g.Sectors, sectorSize: sectorSize}
	var err error
	if g.table, err = gpt.Read(whole, int(sectorSize), int(sectorSize)); err != nil {
		return nil, errors.Join(errNone, whole.failed)
	}
	if g.table.RecoveredFromBackup {
		g.Damage = PrimaryDamaged
	} else if err := g.compare(r); err != nil {
		return nil, err
	}
	// What is written lies before the first partition and behind the last one.
	g.foreign = whole.foreign
	g.table.ProtectiveMBR = false // is ours to write
	return g, g.partitions()
}

// compare looks at the copy of a sound table, which is where its header says: at the end of the disk, or of the
// smaller one that the table was made for.
func (g *Table) compare(r io.ReaderAt) error {
	header := make([]byte, g.SectorSize)
	if _, err := r.ReadAt(header, g.SectorSize); err != nil {
		return err
	}
	last := le.Uint64(header[headerAlternate:])
	if last >= uint64(g.Sectors) || int64(last) <= int64(g.table.LastDataSector()) {
		return fmt.Errorf("%w: its copy is at sector %d of %d", errNone, last, g.Sectors)
	}
	g.last = int64(last)
	behind := &view{r: r, sectors: g.last + 1, sectorSize: g.SectorSize, noPrimary: true}
	backup, err := gpt.Read(behind, int(g.SectorSize), int(g.SectorSize))
	switch {
	case err != nil:
		g.Damage = BackupDamaged
	case !sameTable(g.table, backup):
		g.Damage = BackupDifferent
	}
	return nil
}

// sameTable compares without what the record in sector 0 says.
func sameTable(a, b *gpt.Table) bool {
	x, y := *a, *b
	x.ProtectiveMBR, y.ProtectiveMBR = false, false
	return x.Equal(&y)
}

// view is what go-diskfs sees of a disk. It allocates what a header says, so that an impossible header is none; and
// what cannot be read is damaged, so that it looks at the copy.
type view struct {
	r                   io.ReaderAt
	sectors, sectorSize int64
	noPrimary           bool
	failed              error // of reading
	foreign             error // see Table
	at                  int64
}

func (v *view) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > v.sectors*v.sectorSize {
		return 0, io.EOF
	}
	if n, err := v.r.ReadAt(b, off); n < len(b) {
		v.failed = err
		clear(b)
	}
	switch {
	case off == 0 && int64(len(b)) == 2*v.sectorSize:
		if !v.possible(b[v.sectorSize:], 1) || v.noPrimary {
			clear(b[v.sectorSize:])
		}
	case off == (v.sectors-1)*v.sectorSize && int64(len(b)) == v.sectorSize:
		if !v.possible(b, v.sectors-1) {
			clear(b)
		}
	}
	return len(b), nil
}

// possible says whether a header at a sector can be a table's, as far as sizes go.
func (v *view) possible(header []byte, at int64) bool {
	count, each, entries := le.Uint32(
		header[headerCount:],
	), le.Uint32(
		header[headerEntrySize:],
	), le.Uint64(
		header[headerEntries:],
	)
	if count == 0 || count > maxEntries || each != entrySize || int64(le.Uint64(header[headerMy:])) != at {
		return false
	}
	size := (int64(count)*entrySize + v.sectorSize - 1) / v.sectorSize
	if entries < 2 || entries >= uint64(v.sectors) || int64(entries)+size > v.sectors {
		return false
	}
	v.foreign = nil
	if want := map[bool]int64{true: 2, false: v.sectors - 1 - size}[at == 1]; int64(entries) != want ||
		int64(count)*entrySize%v.sectorSize != 0 {
		v.foreign = fmt.Errorf("its entries are at sector %d, not %d", entries, want)
	}
	if other := le.Uint64(header[headerAlternate:]); at != 1 && other != 1 {
		v.foreign = fmt.Errorf("the primary table is said to be at sector %d", other)
	}
	return true
}

func (v *view) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += v.at
	case io.SeekEnd:
		off += v.sectors * v.sectorSize
	}
	v.at = off
	return off, nil
}

func (v *view) Read([]byte) (int, error)   { return 0, errors.ErrUnsupported }
func (v *view) Stat() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }
func (v *view) Close() error               { return nil }
