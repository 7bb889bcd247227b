package gpt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Disk is where a table is written.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Chunk is a part of a table.
type Chunk struct {
	At   int64 // on the disk, in bytes
	Data []byte
}

// Chunks returns the table's headers and entries, the copy's first. The record in sector 0 is the caller's.
func (g *Table) Chunks() ([]Chunk, error) {
	w := &writer{view: view{sectors: g.Sectors, sectorSize: g.SectorSize}}
	if err := g.table.Write(w, g.Sectors*g.SectorSize); err != nil {
		return nil, fmt.Errorf("partition table: %w", err)
	}
	return w.chunks, nil
}

// Write makes the disk have this table, twice: a copy that is damaged is healed. What is there already is not written.
//
// At a power cut: the copy at the end of the disk is complete and fsynced before the primary table is touched, and
// each of them is entries first, fsynced, then header. So one of them holds at any time, and [Read] finds it. The
// entries of the primary table stay readable for a boot loader that looks at no checksum: a partition that grew has
// one of its two sizes.
func (g *Table) Write(d Disk) error {
	fail := func(err error) error { return fmt.Errorf("write the partition table: %w", err) }
	if g.foreign != nil {
		return fail(g.foreign)
	}
	chunks, err := g.Chunks()
	if err != nil {
		return fail(err)
	}
	for _, c := range chunks {
		if err := update(d, c); err != nil {
			return fail(err)
		}
	}
	if err := g.protect(d); err != nil {
		return fail(err)
	}
	g.Damage = Sound
	return nil
}

// update writes and fsyncs what is not there yet.
func update(d Disk, c Chunk) error {
	have := make([]byte, len(c.Data))
	if n, err := d.ReadAt(have, c.At); err == nil && n == len(have) && bytes.Equal(have, c.Data) {
		return nil
	}
	if _, err := d.WriteAt(c.Data, c.At); err != nil {
		return err
	}
	return d.Sync()
}

// protect has the protective record span the disk, as far as 32 bits go. Another record is left as it is.
func (g *Table) protect(d Disk) error {
	mbr := make([]byte, g.SectorSize)
	if _, err := d.ReadAt(mbr, 0); err != nil {
		return err
	}
	const entry = 446
	if mbr[510] != 0x55 || mbr[511] != 0xaa || mbr[entry+4] != 0xee ||
		!bytes.Equal(mbr[entry+16:510], make([]byte, 48)) {
		return nil
	}
	le.PutUint32(mbr[entry+12:], uint32(min(g.last, 0xffffffff)))
	return update(d, Chunk{0, mbr})
}

// writer keeps what go-diskfs writes.
type writer struct {
	view
	chunks []Chunk
}

func (w *writer) WriteAt(b []byte, off int64) (int, error) {
	if off < w.sectorSize || off+int64(len(b)) > w.sectors*w.sectorSize {
		return 0, errors.New("the table exceeds the disk")
	}
	w.chunks = append(w.chunks, Chunk{off, bytes.Clone(b)})
	return len(b), nil
}
