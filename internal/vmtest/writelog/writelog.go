// Package writelog reads the log of a disk's writes that QEMU's blklogwrites driver makes, and
// brings disks to where they were at each flush: what a power cut may leave.
//
//	0          super block: magic, version, number of entries (8 bytes each), sector size (4 bytes)
//	sector     entry: first sector, number of sectors, flags, length of a mark's data (8 bytes each)
//	           the data of a write, or of a mark padded to a sector
//	…          the next entry
//
// All numbers are little-endian; super block and entries take a sector each. It is the format of
// the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst,
// drivers/md/dm-log-writes.c). QEMU brings the number of entries up to date at each flush; what
// follows the last flush is not counted, and not read.
//
// An entry is written when its operation has ended, so a write which ended while a flush
// was on its way comes before that flush, and counts as durable though the disk need not have
// promised that.
package writelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	magic       = 0x6a736677736872
	version     = 1
	minSector   = 512
	maxSector   = 4096
	entryHeader = 32

	flagFlush   = 1
	flagFUA     = 2
	flagDiscard = 4
	flagMark    = 8
	flagsKnown  = flagFlush | flagFUA | flagDiscard | flagMark
)

// ErrCorrupt is what Read returns for bytes that are no log.
var ErrCorrupt = errors.New("no log of writes, or a damaged one")

// Op is one operation: a write, a discard, or a flush that writes nothing.
type Op struct {
	Offset, Size int64 // on the disk, in bytes
	Flush        bool  // what came before is durable
	FUA          bool  // what this one writes is durable
	Discard      bool  // the content is of no interest any more
	data         int64 // offset in the log, of Size bytes
}

// writes says whether the operation changes the disk.
func (o Op) writes() bool { return o.Size > 0 }

// Log is a log that was read.
type Log struct {
	Ops []Op
	r   io.ReaderAt
}

type super struct{ entries, sector int64 }

func readSuper(r io.ReaderAt) (super, error) {
	var b [28]byte
	if _, err := r.ReadAt(b[:], 0); err == io.EOF {
		return super{}, fmt.Errorf("super block: %w", ErrCorrupt)
	} else if err != nil {
		return super{}, fmt.Errorf("super block: %w", err)
	}
	le := binary.LittleEndian
	s := super{int64(le.Uint64(b[16:])), int64(le.Uint32(b[24:]))}
	if le.Uint64(b[:]) != magic || le.Uint64(b[8:]) != version || s.entries < 0 ||
		s.sector < minSector || s.sector > maxSector || s.sector&(s.sector-1) != 0 {
		return super{}, fmt.Errorf("super block: %w", ErrCorrupt)
	}
	return s, nil
}

// Entries returns the number of entries, also of a log that is still being written: those up to
// the last flush.
func Entries(r io.ReaderAt) (int, error) {
	s, err := readSuper(r)
	return int(s.entries), err
}

// Read reads a log of size bytes. The data of its writes stays where it is, and is read when
// it is needed. There is an Op for every entry, also for marks: they write nothing.
func Read(r io.ReaderAt, size int64) (*Log, error) {
	s, err := readSuper(r)
	if err != nil {
		return nil, err
	}
	l := &Log{r: r}
	at := s.sector
	for n := range s.entries {
		bad := func(what string) error { return fmt.Errorf("entry %d at %d: %s: %w", n, at, what, ErrCorrupt) }
		if at > size-s.sector {
			return nil, bad("beyond the end")
		}
		var b [entryHeader]byte
		if _, err := r.ReadAt(b[:], at); err != nil {
			return nil, fmt.Errorf("entry %d at %d: %w", n, at, err)
		}
		le := binary.LittleEndian
		first, count, flags, length := le.Uint64(b[:]), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])
		const limit = 1 << 50 // sectors: no sum below overflows
		if first > limit || count > limit || flags&^flagsKnown != 0 {
			return nil, bad("senseless numbers")
		}
		at += s.sector
		op := Op{Flush: flags&flagFlush != 0, FUA: flags&flagFUA != 0, Discard: flags&flagDiscard != 0}
		if flags&flagMark != 0 {
			if length > uint64(size-at) {
				return nil, bad("a mark beyond the end")
			}
			at += (int64(length) + s.sector - 1) / s.sector * s.sector
		} else {
			op.Offset, op.Size, op.data = int64(first)*s.sector, int64(count)*s.sector, at
			if !op.Discard {
				if op.Size > size-at {
					return nil, bad("data beyond the end")
				}
				at += op.Size
			}
		}
		l.Ops = append(l.Ops, op)
	}
	return l, nil
}

// Data returns the bytes that a write wrote.
func (l *Log) Data(o Op) ([]byte, error) {
	if o.Discard {
		return nil, nil
	}
	b := make([]byte, o.Size)
	if _, err := l.r.ReadAt(b, o.data); err != nil && (err != io.EOF || o.Size > 0) {
		return nil, fmt.Errorf("data of a write: %w", err)
	}
	return b, nil
}
