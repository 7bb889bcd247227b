// Package fat is the FAT file system: [FileSystem] makes one, [Volume] reads one, whoever made it, and changes it in
// ways that a power cut cannot tear.
//
// A name takes directory entries of 32 bytes (dirents) in its folder: one with the 8.3 name, first cluster and size,
// and before it one for each 13 characters of the long name, the last part first:
//
//	43 "ab+3-0.efi"     0F  checksum of the 8.3 name      the last part, by the flag 0x40
//	02 "07-0123456789"  0F  …
//	01 "kairos-000000"  0F  …
//	"KAIROS~1EFI"  attributes  times  first cluster  size
//
// Changing the last 13 characters, or the cluster and size of two files, is then a write of one sector, which a disk
// does as a whole or not at all.
//
// Reference: Microsoft FAT File System Specification 1.03, and its long name extension.
package fat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf16"
)

// Volume is a FAT volume that is changed below the file system, one sector at a time: what FAT lacks is a rename
// that a power cut cannot tear. While a method runs, the volume is not mounted for writing anywhere.
//
// Nothing here is fsynced: that is the caller's, after each method and before whatever relies on it. A disk writes a
// sector as a whole or not at all, and each method says which sectors it writes.
type Volume struct {
	rw                    Disk
	sector, cluster       int64 // bytes
	fat, fatSize, copies  int64 // bytes; the first FAT, which all read, and how many there are
	rootAt, rootSize      int64 // bytes; rootSize 0: the root is a chain that begins at rootCluster
	data                  int64 // where cluster 2 begins
	rootCluster, clusters uint32
	bits                  int // 12, 16 or 32
}

// Disk is where a volume is: a partition's device, or a file.
type Disk interface {
	io.ReaderAt
	io.WriterAt
}

// entry is one name in a folder.
type entry struct {
	name    string  // the long name, or the short one
	dirents []int64 // offsets on the disk, the 8.3 dirent last
	raw     [direntSize]byte
}

// first returns the file's first cluster, 0 for none.
func (e entry) first() uint32 {
	return parseDirent(e.raw).Cluster
}

// Open reads the boot sector of a volume that begins at offset 0. FAT12, FAT16 and FAT32, logical sectors of 512 to
// 4096 bytes.
func Open(rw Disk) (*Volume, error) {
	b := make([]byte, 512)
	if _, err := rw.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("FAT: %w", err)
	}
	h, err := parseHeader(b)
	if err != nil {
		return nil, err
	}
	d := &Volume{
		rw: rw, sector: h.Sector, cluster: h.cluster(),
		fat: h.fatAt(0), fatSize: h.FATSectors * h.Sector, copies: h.FATs,
		rootAt: h.rootAt(), rootSize: h.rootSize(), data: h.data(), rootCluster: h.RootCluster,
	}
	count := h.clusters()
	if count <= 0 {
		return nil, errors.New("FAT: no clusters")
	}
	switch {
	case count < minFAT16:
		d.bits = 12
	case count <= maxFAT16:
		d.bits = 16
	default:
		d.bits = 32
	}
	if count > 0x0fffffef || (count+firstCluster)*int64(d.bits) > d.fatSize*8 {
		return nil, errors.New("FAT: more clusters than the FAT has entries")
	}
	d.clusters = uint32(count)
	if _, err := rw.ReadAt(b[:1], d.data+count*d.cluster-1); err != nil {
		return nil, fmt.Errorf("FAT: the volume is larger than what it is on: %w", err)
	}
	return d, nil
}

// next returns the cluster after c, or 0 at the end of the chain.
func (d *Volume) next(c uint32) (uint32, error) {
	var b [4]byte
	at := d.fat + int64(c)*int64(d.bits)/8
	if _, err := d.rw.ReadAt(b[:], at); err != nil {
		return 0, fmt.Errorf("FAT: %w", err)
	}
	n := le.Uint32(b[:])
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
	if n < firstCluster || n >= d.clusters+firstCluster {
		return 0, nil
	}
	return n, nil
}

// walk calls do for each dirent of the folder that begins at a cluster; 0 is the root.
func (d *Volume) walk(cluster uint32, do func(at int64, dirent []byte) (bool, error)) error {
	part := func(at, size int64) (bool, error) {
		b := make([]byte, size)
		if _, err := d.rw.ReadAt(b, at); err != nil {
			return false, fmt.Errorf("FAT: %w", err)
		}
		for i := int64(0); i < size; i += direntSize {
			if b[i] == 0 {
				return false, nil
			}
			if more, err := do(at+i, b[i:i+direntSize]); !more || err != nil {
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
	// seen is a cluster that the chain has passed, a later one from time to time: Brent's way to find a loop.
	seen, steps, until := uint32(0), 0, 1
	for size := int64(0); cluster >= firstCluster; size += d.cluster {
		if size >= maxFolder*direntSize {
			return errors.New("FAT: a folder has more entries than FAT can have")
		}
		if cluster == seen {
			return errors.New("FAT: the clusters of a folder have a loop")
		}
		if steps++; steps == until {
			seen, steps, until = cluster, 0, 2*until
		}
		more, err := part(d.data+int64(cluster-firstCluster)*d.cluster, d.cluster)
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
func (d *Volume) list(cluster uint32) ([]entry, error) {
	var all []entry
	var long []uint16
	var dirents []int64
	err := d.walk(cluster, func(at int64, b []byte) (bool, error) {
		switch {
		case b[0] == deleted:
			long, dirents = nil, nil
		case b[11]&0x3f == attrLong:
			if b[0]&0x40 != 0 {
				long, dirents = nil, nil
			}
			long = append(longChars(b), long...)
			dirents = append(dirents, at)
		case b[11]&attrVolume != 0:
			long, dirents = nil, nil
		default:
			e := entry{name: shortText(b), dirents: append(dirents, at), raw: [direntSize]byte(b)}
			if len(long) > 0 {
				e.name = longName(long)
			}
			all = append(all, e)
			long, dirents = nil, nil
		}
		return true, nil
	})
	return all, err
}

// lookup finds a name; FAT does not tell case apart.
func (d *Volume) lookup(cluster uint32, name string) (entry, error) {
	all, err := d.list(cluster)
	if err != nil {
		return entry{}, err
	}
	for _, e := range all {
		if strings.EqualFold(e.name, name) {
			return e, nil
		}
	}
	return entry{}, fmt.Errorf("FAT: %s: no such file", name)
}

// dir returns the first cluster of a folder.
func (d *Volume) dir(name string) (uint32, error) {
	if len(name) > maxPath {
		return 0, fmt.Errorf("FAT: %.40s…: a path of %d bytes is longer than FAT allows", name, len(name))
	}
	var cluster uint32
	for part := range strings.SplitSeq(path.Clean(name), "/") {
		if part == "." {
			continue
		}
		e, err := d.lookup(cluster, part)
		if err != nil {
			return 0, err
		}
		if e.raw[11]&attrDir == 0 {
			return 0, fmt.Errorf("FAT: %s: not a folder", part)
		}
		cluster = e.first()
	}
	return cluster, nil
}

// Rename changes a long name. Both names must take the same number of dirents and differ within one of them, such as
// in their last characters; else it is refused, and nothing is written.
//
// At a power cut: one sector is written, so the file has the old name or the new one, and all its bytes.
func (d *Volume) Rename(dir, from, to string) error {
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
	n := (len(want) + charsPerDirent - 1) / charsPerDirent
	if n != len(e.dirents)-1 {
		return fail(fmt.Errorf("%d characters take %d dirents, the old name has %d", len(want), n, len(e.dirents)-1))
	}
	dirents := longDirents(want, shortSum([11]byte(e.raw[:11])))
	changed := -1
	for i, at := range e.dirents[:n] {
		var have [direntSize]byte
		if _, err := d.rw.ReadAt(have[:], at); err != nil {
			return fail(err)
		}
		if have == dirents[i] {
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
	if err := d.writeSector(map[int64][]byte{e.dirents[changed]: dirents[changed][:]}); err != nil {
		return fail(err)
	}
	return nil
}

// Exchange swaps the content of two files in one folder: times, first cluster and size. Where their 8.3 dirents are in
// one sector it is one write, else final has the new content first.
//
// At a power cut: each of the two has the old content or the new one as a whole; both may have the same one. Remove
// and Reclaim then clear that up.
func (d *Volume) Exchange(dir, temp, final string) error {
	fail := func(err error) error { return fmt.Errorf("exchange %s and %s in %s: %w", temp, final, dir, err) }
	cluster, err := d.dir(dir)
	if err != nil {
		return fail(err)
	}
	et, err := d.lookup(cluster, temp)
	if err != nil {
		return fail(err)
	}
	ef, err := d.lookup(cluster, final)
	if err != nil {
		return fail(err)
	}
	swap := func(name, content [32]byte) []byte { // bytes 13 to 31: times, cluster, size
		out := name
		copy(out[13:], content[13:])
		return out[:]
	}
	atFinal, atTemp := ef.dirents[len(ef.dirents)-1], et.dirents[len(et.dirents)-1]
	writes := []map[int64][]byte{{atFinal: swap(ef.raw, et.raw)}, {atTemp: swap(et.raw, ef.raw)}}
	if atFinal/d.sector == atTemp/d.sector {
		writes[0][atTemp] = writes[1][atTemp]
		writes = writes[:1]
	}
	for _, w := range writes {
		if err := d.writeSector(w); err != nil {
			return fail(err)
		}
	}
	return nil
}

// Remove takes a name away, of a file or of a folder with all that is in it. Nothing of what it had is looked at,
// which an earlier power cut may have left torn, and its clusters stay taken: [Volume.Reclaim] frees them.
//
// At a power cut: the name is there as before, or gone. The dirent that makes it a file goes first, and with it, in
// one write, all that are in the same sector. Slots of a long name that lie in the sector before are deleted by a
// second write; without it they are left as garbage that belongs to no name, which fsck.fat removes and nothing else
// minds.
func (d *Volume) Remove(dir, name string) error {
	fail := func(err error) error { return fmt.Errorf("remove %s in %s: %w", name, dir, err) }
	cluster, err := d.dir(dir)
	if err != nil {
		return fail(err)
	}
	e, err := d.lookup(cluster, name)
	if err != nil {
		return fail(err)
	}
	for len(e.dirents) > 0 {
		last := e.dirents[len(e.dirents)-1] / d.sector
		gone := map[int64][]byte{}
		for len(e.dirents) > 0 && e.dirents[len(e.dirents)-1]/d.sector == last {
			gone[e.dirents[len(e.dirents)-1]] = []byte{deleted}
			e.dirents = e.dirents[:len(e.dirents)-1]
		}
		if err := d.writeSector(gone); err != nil {
			return fail(err)
		}
	}
	return nil
}

// Reclaim frees the clusters that nothing refers to, and makes the other FATs copies of the first. It returns the
// number of bytes that were freed. An interrupted write leaves such clusters: a file has them before it has its name,
// and gives them back after it has lost it. A file that is being written has some, too: nobody may have the volume
// mounted.
//
// At a power cut: a sector of a FAT is written as a whole, the first FAT's before its copies', and no entry changes
// that a name leads to. So what was not freed yet is found by the next call, as are copies that differ.
func (d *Volume) Reclaim() (freed int64, err error) {
	if d.bits == 12 {
		return 0, nil // entries in one and a half bytes: no ESP has them
	}
	fail := func(err error) (int64, error) { return freed, fmt.Errorf("reclaim lost clusters: %w", err) }
	used := make([]bool, d.clusters+firstCluster)
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
func (d *Volume) clearLost(sector []byte, cluster uint32, used []bool) (lost int) {
	size := d.bits / 8
	for at := 0; at < len(sector) && int(cluster) < len(used); at, cluster = at+size, cluster+1 {
		if cluster < firstCluster || used[cluster] {
			continue
		}
		if d.bits == 16 {
			if v := le.Uint16(sector[at:]); v != 0 && v != badCluster&0xffff {
				le.PutUint16(sector[at:], 0)
				lost++
			}
			continue
		}
		// The upper four bits are not part of the entry.
		if v := le.Uint32(sector[at:]); v&0x0fffffff != 0 && v&0x0fffffff != badCluster {
			le.PutUint32(sector[at:], v&0xf0000000)
			lost++
		}
	}
	return lost
}

// mark notes the clusters of a folder, 0 for the root, and of all that is in it. It ends at what was seen before.
func (d *Volume) mark(folder uint32, used []bool) error {
	chain := func(c uint32) (fresh bool, err error) {
		for c >= firstCluster && int(c) < len(used) && !used[c] {
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
		if fresh && e.raw[11]&attrDir != 0 {
			if err := d.mark(e.first(), used); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeSector changes dirents that lie in one sector, by one write.
func (d *Volume) writeSector(dirents map[int64][]byte) error {
	sector := make([]byte, d.sector)
	at := int64(-1)
	for off := range dirents {
		if at >= 0 && off/d.sector*d.sector != at {
			return errors.New("the names are not in one sector")
		}
		at = off / d.sector * d.sector
	}
	if _, err := d.rw.ReadAt(sector, at); err != nil {
		return err
	}
	for off, b := range dirents {
		copy(sector[off-at:], b)
	}
	_, err := d.rw.WriteAt(sector, at)
	return err
}
