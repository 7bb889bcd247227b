package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// gpt is a disk's GUID partition table (UEFI specification 2.10, chapter 5.3).
type gpt struct {
	blockSize, blocks int64 // of the disk
	header, entries   []byte
	parts             []partition
}

// partition is an entry of the table.
type partition struct {
	number      int // from 1
	guid, name  string
	first, last int64 // blocks, both included
}

// Offsets in the header and in an entry.
const (
	gptHeaderSize = 92
	gptHeaderCRC  = 16
	gptMyLBA      = 24
	gptAlternate  = 32
	gptLastUsable = 48
	gptEntriesLBA = 72
	gptCount      = 80
	gptEntrySize  = 84
	gptEntriesCRC = 88

	entryGUID  = 16
	entryFirst = 32
	entryLast  = 40
	entryName  = 56
	entrySize  = 128
)

var le = binary.LittleEndian

// readDisk reads a disk's partition table.
func readDisk(device string) (*gpt, error) {
	f, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	blockSize, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	return readGPT(f, size, int64(blockSize))
}

// readGPT reads the table at the start of the disk, or if that is damaged the copy at its end.
func readGPT(r io.ReaderAt, size, blockSize int64) (*gpt, error) {
	g := &gpt{blockSize: blockSize, blocks: size / blockSize}
	if g.blocks < 68 {
		return nil, errors.New("the disk is too small for a partition table")
	}
	err := g.read(r, 1)
	if err != nil && g.read(r, g.blocks-1) == nil {
		err = nil
	}
	return g, err
}

func (g *gpt) read(r io.ReaderAt, lba int64) error {
	header := make([]byte, g.blockSize)
	if _, err := r.ReadAt(header, lba*g.blockSize); err != nil {
		return err
	}
	if string(header[:8]) != "EFI PART" || headerSum(header) != le.Uint32(header[gptHeaderCRC:]) || int64(le.Uint64(header[gptMyLBA:])) != lba {
		return errors.New("no valid GUID partition table")
	}
	count, each, at := le.Uint32(header[gptCount:]), le.Uint32(header[gptEntrySize:]), le.Uint64(header[gptEntriesLBA:])
	if each != entrySize || count == 0 || count > 1024 || int64(at) < 1 || int64(at) >= g.blocks {
		return errors.New("no valid GUID partition table: entries of another size")
	}
	entries := make([]byte, count*each)
	if _, err := r.ReadAt(entries, int64(at)*g.blockSize); err != nil {
		return err
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(header[gptEntriesCRC:]) {
		return errors.New("no valid GUID partition table: wrong checksum of the entries")
	}
	g.header, g.entries, g.parts = header, entries, nil
	for i := range int(count) {
		if e := entries[i*entrySize:][:entrySize]; strings.Trim(string(e[:16]), "\x00") != "" {
			g.parts = append(g.parts, partition{
				number: i + 1, guid: formatGUID(e[entryGUID:]), name: entryText(e[entryName:]),
				first: int64(le.Uint64(e[entryFirst:])), last: int64(le.Uint64(e[entryLast:])),
			})
		}
	}
	return nil
}

func headerSum(header []byte) uint32 {
	h := append([]byte(nil), header[:gptHeaderSize]...)
	clear(h[gptHeaderCRC : gptHeaderCRC+4])
	return crc32.ChecksumIEEE(h)
}

// formatGUID formats as Linux does, in lower case. The first three fields are little-endian.
func formatGUID(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

func entryText(b []byte) string {
	var text []uint16
	for i := 0; i < 72; i += 2 {
		if c := le.Uint16(b[i:]); c != 0 {
			text = append(text, c)
		} else {
			break
		}
	}
	return string(utf16.Decode(text))
}

// has says whether the table has a partition with this GUID.
func (g *gpt) has(guid string) bool {
	for _, p := range g.parts {
		if p.guid == guid {
			return true
		}
	}
	return false
}

// grow gives the partition with that name all space up to the end of the disk, if it is the last one and
// that is worth it. It returns the partition, and whether it changed.
func (g *gpt) grow(name string) (partition, bool) {
	last := -1
	for i, p := range g.parts {
		if last < 0 || p.first > g.parts[last].first {
			last = i
		}
	}
	if last < 0 || g.parts[last].name != name {
		return partition{}, false
	}
	const align, worthwhile = 1 << 20, 8 << 20
	tableBlocks := (int64(len(g.entries)) + g.blockSize - 1) / g.blockSize
	lastUsable := g.blocks - 1 - tableBlocks - 1
	perMiB := align / g.blockSize
	end := (lastUsable + 1) / perMiB * perMiB
	p := &g.parts[last]
	if (end-1-p.last)*g.blockSize < worthwhile {
		return *p, false
	}
	p.last = end - 1
	le.PutUint64(g.entries[(p.number-1)*entrySize+entryLast:], uint64(p.last))
	le.PutUint64(g.header[gptLastUsable:], uint64(lastUsable))
	return *p, true
}

// write writes both copies of the table. The one at the end comes first: until the other is
// written, which is one write of adjacent blocks, the old table is valid.
func (g *gpt) write(w io.WriterAt, mbr []byte, sync func() error) error {
	tableBlocks := (int64(len(g.entries)) + g.blockSize - 1) / g.blockSize
	table := make([]byte, tableBlocks*g.blockSize)
	copy(table, g.entries)

	end := g.seal(g.blocks-1, 1, g.blocks-1-tableBlocks)
	if _, err := w.WriteAt(append(append([]byte(nil), table...), end...), (g.blocks-1-tableBlocks)*g.blockSize); err != nil {
		return err
	}
	if err := sync(); err != nil {
		return err
	}
	start := append([]byte(nil), mbr...)
	// The protective record spans the disk, as far as 32 bits go.
	le.PutUint32(start[446+12:], uint32(min(g.blocks-1, 0xffffffff)))
	start = append(start, g.seal(1, g.blocks-1, 2)...)
	if _, err := w.WriteAt(append(start, table...), 0); err != nil {
		return err
	}
	return sync()
}

// seal returns the header for one of the two places.
func (g *gpt) seal(lba, alternate, entries int64) []byte {
	h := append([]byte(nil), g.header...)
	le.PutUint64(h[gptMyLBA:], uint64(lba))
	le.PutUint64(h[gptAlternate:], uint64(alternate))
	le.PutUint64(h[gptEntriesLBA:], uint64(entries))
	le.PutUint32(h[gptEntriesCRC:], crc32.ChecksumIEEE(g.entries))
	le.PutUint32(h[gptHeaderCRC:], headerSum(h))
	return h
}
