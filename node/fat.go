package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf16"
)

// fatDisk is a FAT volume that is changed below the file system, one sector at a time:
// what FAT lacks is a rename that a power cut cannot tear.
//
// A name takes 32-byte slots in its folder: one with the 8.3 name, first cluster and size,
// and before it one for each 13 characters of the long name, the last part first. Changing
// the last 13 characters, or the cluster and size of two files, is then a write of one
// sector, which a disk does as a whole or not at all.
//
// Reference: Microsoft FAT File System Specification 1.03, and its long name extension.
type fatDisk struct {
	rw interface {
		io.ReaderAt
		io.WriterAt
	}
	sector, cluster       int64 // bytes
	fat, fatSize, copies  int64 // bytes; the first FAT, which all read, and how many there are
	rootAt, rootSize      int64 // bytes; rootSize 0: the root is a chain that begins at rootCluster
	data                  int64 // where cluster 2 begins
	rootCluster, clusters uint32
	bits                  int // 12, 16 or 32
}

// fatEntry is one name in a folder.
type fatEntry struct {
	name  string  // the long name, or the short one
	slots []int64 // offsets on the disk, the 8.3 slot last
	raw   [32]byte
}

// first returns the file's first cluster, 0 for none.
func (e fatEntry) first() uint32 {
	return uint32(binary.LittleEndian.Uint16(e.raw[26:])) | uint32(binary.LittleEndian.Uint16(e.raw[20:]))<<16
}

const (
	fatDeleted    = 0xe5       // a slot's first byte
	fatFirst      = 2          // the first cluster's number
	fatBad        = 0x0ffffff7 // a cluster that is not to be used
	fatAttrDir    = 0x10
	fatAttrVolume = 0x08
	fatAttrLong   = 0x0f
	fatSlot       = 32
	fatPerSlot    = 13 // characters of a long name
)

func openFAT(rw interface {
	io.ReaderAt
	io.WriterAt
}) (*fatDisk, error) {
	b := make([]byte, 512)
	if _, err := rw.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("FAT: %w", err)
	}
	le := binary.LittleEndian
	d := &fatDisk{rw: rw}
	d.sector = int64(le.Uint16(b[11:]))
	perCluster, reserved, fats := int64(b[13]), int64(le.Uint16(b[14:])), int64(b[16])
	rootEntries, total, fatSize := int64(le.Uint16(b[17:])), int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	if fatSize == 0 {
		fatSize = int64(le.Uint32(b[36:]))
		d.rootCluster = le.Uint32(b[44:])
	}
	if b[510] != 0x55 || b[511] != 0xaa || d.sector < 512 || d.sector > 4096 || d.sector&(d.sector-1) != 0 || perCluster == 0 || fats == 0 || fatSize == 0 {
		return nil, errors.New("FAT: no FAT file system")
	}
	d.cluster = perCluster * d.sector
	d.fat, d.fatSize, d.copies = reserved*d.sector, fatSize*d.sector, fats
	d.rootAt = d.fat + fats*fatSize*d.sector
	d.rootSize = (rootEntries*fatSlot + d.sector - 1) / d.sector * d.sector
	d.data = d.rootAt + d.rootSize
	count := (total*d.sector - d.data) / d.cluster
	if count <= 0 {
		return nil, errors.New("FAT: no clusters")
	}
	d.clusters = uint32(count)
	switch {
	case count < 4085:
		d.bits = 12
	case count < 65525:
		d.bits = 16
	default:
		d.bits = 32
	}
	return d, nil
}

// next returns the cluster after c, or 0 at the end of the chain.
func (d *fatDisk) next(c uint32) (uint32, error) {
	var b [4]byte
	at := d.fat + int64(c)*int64(d.bits)/8
	if _, err := d.rw.ReadAt(b[:], at); err != nil {
		return 0, fmt.Errorf("FAT: %w", err)
	}
	n := binary.LittleEndian.Uint32(b[:])
	switch d.bits {
	case 12:
		if c%2 == 1 {
			n >>= 4
		}
		n &= 0xfff
	case 16:
		n &= 0xffff
	case 32:
		n &= 0x0fffffff
	}
	if n < fatFirst || n >= d.clusters+fatFirst {
		return 0, nil
	}
	return n, nil
}

// walk calls do for each slot of the folder that begins at a cluster; 0 is the root.
func (d *fatDisk) walk(cluster uint32, do func(at int64, slot []byte) (bool, error)) error {
	part := func(at, size int64) (bool, error) {
		b := make([]byte, size)
		if _, err := d.rw.ReadAt(b, at); err != nil {
			return false, fmt.Errorf("FAT: %w", err)
		}
		for i := int64(0); i < size; i += fatSlot {
			if b[i] == 0 {
				return false, nil
			}
			if more, err := do(at+i, b[i:i+fatSlot]); !more || err != nil {
				return false, err
			}
		}
		return true, nil
	}
	if cluster == 0 {
		if d.rootSize > 0 {
			_, err := part(d.rootAt, d.rootSize)
			return err
		}
		cluster = d.rootCluster
	}
	for n := uint32(0); cluster >= fatFirst && n <= d.clusters; n++ {
		more, err := part(d.data+int64(cluster-fatFirst)*d.cluster, d.cluster)
		if !more || err != nil {
			return err
		}
		if cluster, err = d.next(cluster); err != nil {
			return err
		}
	}
	return nil
}

// list returns the names in a folder.
func (d *fatDisk) list(cluster uint32) ([]fatEntry, error) {
	var all []fatEntry
	var long []uint16
	var slots []int64
	err := d.walk(cluster, func(at int64, b []byte) (bool, error) {
		switch {
		case b[0] == fatDeleted:
			long, slots = nil, nil
		case b[11]&0x3f == fatAttrLong:
			if b[0]&0x40 != 0 {
				long, slots = nil, nil
			}
			long = append(longChars(b), long...)
			slots = append(slots, at)
		case b[11]&fatAttrVolume != 0:
			long, slots = nil, nil
		default:
			e := fatEntry{name: shortName(b), slots: append(slots, at), raw: [32]byte(b)}
			if len(long) > 0 {
				e.name = longName(long)
			}
			all = append(all, e)
			long, slots = nil, nil
		}
		return true, nil
	})
	return all, err
}

// lookup finds a name; FAT does not tell case apart.
func (d *fatDisk) lookup(cluster uint32, name string) (fatEntry, error) {
	all, err := d.list(cluster)
	if err != nil {
		return fatEntry{}, err
	}
	for _, e := range all {
		if strings.EqualFold(e.name, name) {
			return e, nil
		}
	}
	return fatEntry{}, fmt.Errorf("FAT: %s: no such file", name)
}

// dir returns the first cluster of a folder.
func (d *fatDisk) dir(name string) (uint32, error) {
	var cluster uint32
	for part := range strings.SplitSeq(path.Clean(name), "/") {
		if part == "." {
			continue
		}
		e, err := d.lookup(cluster, part)
		if err != nil {
			return 0, err
		}
		if e.raw[11]&fatAttrDir == 0 {
			return 0, fmt.Errorf("FAT: %s: not a folder", part)
		}
		cluster = e.first()
	}
	return cluster, nil
}

// Rename changes a long name. Both must differ within their last 13 characters only, so
// that it is one write of one sector.
func (d *fatDisk) Rename(dir, from, to string) error {
	fail := func(err error) error { return fmt.Errorf("rename %s to %s in %s: %w", from, to, dir, err) }
	cluster, err := d.dir(dir)
	if err != nil {
		return fail(err)
	}
	if _, err := d.lookup(cluster, to); err == nil {
		return fail(errors.New("the name exists"))
	}
	e, err := d.lookup(cluster, from)
	if err != nil {
		return fail(err)
	}
	want := utf16.Encode([]rune(to))
	n := (len(want) + fatPerSlot - 1) / fatPerSlot
	if n != len(e.slots)-1 {
		return fail(fmt.Errorf("%d characters take %d slots, the old name has %d", len(want), n, len(e.slots)-1))
	}
	slots := longSlots(want, shortSum(e.raw[:11]))
	changed := -1
	for i, at := range e.slots[:n] {
		var have [fatSlot]byte
		if _, err := d.rw.ReadAt(have[:], at); err != nil {
			return fail(err)
		}
		if have == slots[i] {
			continue
		}
		if changed >= 0 {
			return fail(errors.New("the names differ in more than one place"))
		}
		changed = i
	}
	if changed < 0 {
		return nil
	}
	if err := d.writeSector(map[int64][]byte{e.slots[changed]: slots[changed][:]}); err != nil {
		return fail(err)
	}
	return nil
}

// Exchange swaps the content of two files in one folder.
func (d *fatDisk) Exchange(dir, a, b string) error {
	fail := func(err error) error { return fmt.Errorf("exchange %s and %s in %s: %w", a, b, dir, err) }
	cluster, err := d.dir(dir)
	if err != nil {
		return fail(err)
	}
	ea, err := d.lookup(cluster, a)
	if err != nil {
		return fail(err)
	}
	eb, err := d.lookup(cluster, b)
	if err != nil {
		return fail(err)
	}
	swap := func(name, content [32]byte) []byte { // bytes 13 to 31: times, cluster, size
		out := name
		copy(out[13:], content[13:])
		return out[:]
	}
	if err := d.writeSector(map[int64][]byte{
		ea.slots[len(ea.slots)-1]: swap(ea.raw, eb.raw),
		eb.slots[len(eb.slots)-1]: swap(eb.raw, ea.raw),
	}); err != nil {
		return fail(err)
	}
	return nil
}

// Remove takes a name away, of a file or of a folder with all that is in it. Nothing of what it had is looked at,
// which a power cut may have left torn: [fatDisk.Reclaim] finds that free. The slot that makes it a file goes first, and
// with it, in one write, all that are in the same sector.
func (d *fatDisk) Remove(dir, name string) error {
	fail := func(err error) error { return fmt.Errorf("remove %s in %s: %w", name, dir, err) }
	cluster, err := d.dir(dir)
	if err != nil {
		return fail(err)
	}
	e, err := d.lookup(cluster, name)
	if err != nil {
		return fail(err)
	}
	for len(e.slots) > 0 {
		last := e.slots[len(e.slots)-1] / d.sector
		gone := map[int64][]byte{}
		for len(e.slots) > 0 && e.slots[len(e.slots)-1]/d.sector == last {
			gone[e.slots[len(e.slots)-1]] = []byte{fatDeleted}
			e.slots = e.slots[:len(e.slots)-1]
		}
		if err := d.writeSector(gone); err != nil {
			return fail(err)
		}
	}
	return nil
}

// Reclaim frees the clusters that nothing refers to, and makes the other FATs copies of the first. It returns
// the number of bytes that were freed. A power cut leaves such clusters: a file has them before it has its
// name, and gives them back after it has lost it.
func (d *fatDisk) Reclaim() (freed int64, err error) {
	if d.bits == 12 {
		return 0, nil // entries in one and a half bytes: no ESP has them
	}
	fail := func(err error) (int64, error) { return freed, fmt.Errorf("reclaim lost clusters: %w", err) }
	used := make([]bool, d.clusters+fatFirst)
	if err := d.mark(0, used); err != nil {
		return fail(err)
	}
	buf := make([]byte, d.copies*d.sector)
	for at := int64(0); at < d.fatSize; at += d.sector {
		for i := range d.copies {
			if _, err := d.rw.ReadAt(buf[i*d.sector:][:d.sector], d.fat+i*d.fatSize+at); err != nil {
				return fail(err)
			}
		}
		first := buf[:d.sector]
		lost := d.clearLost(first, uint32(at*8/int64(d.bits)), used)
		for i := range d.copies {
			if i == 0 && lost == 0 || i > 0 && bytes.Equal(buf[i*d.sector:][:d.sector], first) {
				continue
			}
			if _, err := d.rw.WriteAt(first, d.fat+i*d.fatSize+at); err != nil {
				return fail(err)
			}
		}
		freed += int64(lost) * d.cluster
	}
	return freed, nil
}

// clearLost zeroes the entries of a sector of the FAT, which begins at a cluster, that are in nobody's chain.
func (d *fatDisk) clearLost(sector []byte, cluster uint32, used []bool) (lost int) {
	le := binary.LittleEndian
	size := d.bits / 8
	for at := 0; at < len(sector) && int(cluster) < len(used); at, cluster = at+size, cluster+1 {
		if cluster < fatFirst || used[cluster] {
			continue
		}
		if d.bits == 16 {
			if v := le.Uint16(sector[at:]); v != 0 && v != fatBad&0xffff {
				le.PutUint16(sector[at:], 0)
				lost++
			}
			continue
		}
		// The upper four bits are not part of the entry.
		if v := le.Uint32(sector[at:]); v&0x0fffffff != 0 && v&0x0fffffff != fatBad {
			le.PutUint32(sector[at:], v&0xf0000000)
			lost++
		}
	}
	return lost
}

// mark notes the clusters of a folder, 0 for the root, and of all that is in it. It ends at what was seen before.
func (d *fatDisk) mark(folder uint32, used []bool) error {
	chain := func(c uint32) (fresh bool, err error) {
		for c >= fatFirst && int(c) < len(used) && !used[c] {
			used[c], fresh = true, true
			if c, err = d.next(c); err != nil {
				return fresh, err
			}
		}
		return fresh, nil
	}
	if folder == 0 {
		if _, err := chain(d.rootCluster); err != nil {
			return err
		}
	}
	all, err := d.list(folder)
	if err != nil {
		return err
	}
	for _, e := range all {
		fresh, err := chain(e.first())
		if err != nil {
			return err
		}
		if fresh && e.raw[11]&fatAttrDir != 0 {
			if err := d.mark(e.first(), used); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeSector changes slots that lie in one sector, by one write.
func (d *fatDisk) writeSector(slots map[int64][]byte) error {
	sector := make([]byte, d.sector)
	at := int64(-1)
	for off := range slots {
		if at >= 0 && off/d.sector*d.sector != at {
			return errors.New("the names are not in one sector")
		}
		at = off / d.sector * d.sector
	}
	if _, err := d.rw.ReadAt(sector, at); err != nil {
		return err
	}
	for off, b := range slots {
		copy(sector[off-at:], b)
	}
	_, err := d.rw.WriteAt(sector, at)
	return err
}

// The places of a long name's characters in a slot.
var longPlaces = [fatPerSlot]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}

func longChars(slot []byte) []uint16 {
	chars := make([]uint16, fatPerSlot)
	for i, at := range longPlaces {
		chars[i] = binary.LittleEndian.Uint16(slot[at:])
	}
	return chars
}

func longName(chars []uint16) string {
	for i, c := range chars {
		if c == 0 {
			chars = chars[:i]
			break
		}
	}
	return string(utf16.Decode(chars))
}

// longSlots returns the slots of a long name, in the order in which they lie on the disk.
func longSlots(name []uint16, sum byte) [][fatSlot]byte {
	n := (len(name) + fatPerSlot - 1) / fatPerSlot
	slots := make([][fatSlot]byte, n)
	for i := range n {
		b := &slots[n-1-i]
		b[0] = byte(i + 1)
		if i == n-1 {
			b[0] |= 0x40
		}
		b[11], b[13] = fatAttrLong, sum
		for j, at := range longPlaces {
			c := uint16(0xffff)
			switch k := i*fatPerSlot + j; {
			case k < len(name):
				c = name[k]
			case k == len(name):
				c = 0
			}
			binary.LittleEndian.PutUint16(b[at:], c)
		}
	}
	return slots
}

func shortName(b []byte) string {
	name := strings.TrimRight(string(b[:8]), " ")
	if ext := strings.TrimRight(string(b[8:11]), " "); ext != "" {
		name += "." + ext
	}
	return name
}

// shortSum is the checksum that ties a long name to its 8.3 name.
func shortSum(name []byte) (sum byte) {
	for _, c := range name {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}
