package disk

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/sparse"
)

// volume is an ISO that is being laid out.
type volume struct {
	iso  ISO
	next int64 // first free sector

	dirs  []*isoDir // in path table order
	files map[*filetree.Node][]sparse.Part

	pathTable            int64 // its sector, little-endian copy
	pathTableM           int64 // big-endian copy
	pathTableSize        int64
	continuation         int64 // sector of the root's continuation area
	continuationContents []byte
}

// isoDir is a folder: its place and its children under the names that ISO 9660 allows.
type isoDir struct {
	node     *filetree.Node
	parent   *isoDir
	number   int // in the path table, from 1
	id       string
	at, size int64
	ids      []isoChild // sorted by id
	subdirs  map[*filetree.Node]*isoDir
}

type isoChild struct {
	id   string
	node *filetree.Node
}

// take reserves sectors for size bytes. Empty files own none.
func (v *volume) take(size int64) int64 {
	if size == 0 {
		return 0
	}
	at := v.next
	v.next += align(size, sector) / sector
	return at
}

// placeDirs gives every folder its place. Folders are numbered level by level, as the path
// table has them.
func (v *volume) placeDirs(root *filetree.Node) error {
	level := []*isoDir{{node: root, id: "\x00"}}
	level[0].parent = level[0]
	for depth := 1; len(level) > 0; depth++ {
		// Eight levels are all that ISO 9660 has; Kairos needs five.
		if depth > 8 {
			return fmt.Errorf("%s: folders are nested more than 8 deep", level[0].node.String())
		}
		var below []*isoDir
		for _, d := range level {
			v.dirs = append(v.dirs, d)
			d.number = len(v.dirs)
			d.ids = isoNames(d.node)
			d.subdirs = map[*filetree.Node]*isoDir{}
			for _, c := range d.ids {
				if c.node.IsDir() {
					sub := &isoDir{node: c.node, parent: d, id: c.id}
					d.subdirs[c.node] = sub
					below = append(below, sub)
				}
			}
		}
		level = below
	}
	for _, d := range v.dirs {
		v.pathTableSize += int64(8 + len(d.id) + len(d.id)%2)
		records, err := v.records(d)
		if err != nil {
			return err
		}
		d.size = int64(len(records))
	}
	v.pathTable = v.take(v.pathTableSize)
	v.pathTableM = v.take(v.pathTableSize)
	v.continuationContents = rockRidgeReference()
	v.continuation = v.take(int64(len(v.continuationContents)))
	for _, d := range v.dirs {
		d.at = v.take(d.size)
	}
	return nil
}

// addDirs writes path tables and folders, once every file has its place.
func (v *volume) addDirs(m *sparse.Image) {
	m.AddBytes(v.pathTable*sector, "path table", v.pathTableBytes(binary.LittleEndian))
	m.AddBytes(v.pathTableM*sector, "path table", v.pathTableBytes(binary.BigEndian))
	m.AddBytes(v.continuation*sector, "continuation area", v.continuationContents)
	for _, d := range v.dirs {
		b, _ := v.records(d) // did not fail when its size was computed
		m.AddBytes(d.at*sector, "folder "+d.node.String(), b)
	}
}

func (v *volume) pathTableBytes(order binary.AppendByteOrder) []byte {
	var b []byte
	for _, d := range v.dirs {
		b = append(b, byte(len(d.id)), 0)
		b = order.AppendUint32(b, uint32(d.at))
		b = order.AppendUint16(b, uint16(d.parent.number))
		b = append(b, d.id...)
		if len(d.id)%2 == 1 {
			b = append(b, 0)
		}
	}
	return b
}

// isoNames gives a folder's children the names that a reader without Rock Ridge sees: unique,
// at most 30 characters of A-Z, 0-9 and _, files with one dot and version 1.
func isoNames(n *filetree.Node) []isoChild {
	used := map[string]bool{}
	ids := make([]isoChild, 0, len(n.Children))
	for _, c := range n.Children {
		plain := func(s string, limit int) string {
			s = strings.Map(func(r rune) rune {
				switch {
				case r >= 'a' && r <= 'z':
					return r - 'a' + 'A'
				case r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
					return r
				}
				return '_'
			}, s)
			return s[:min(len(s), limit)]
		}
		stem, ext := c.Name, ""
		if i := strings.LastIndexByte(stem, '.'); i > 0 && !c.IsDir() {
			stem, ext = stem[:i], stem[i+1:]
		}
		stem, ext = plain(stem, 20), plain(ext, 8)
		form := func(stem string) string {
			if c.IsDir() {
				return stem
			}
			return stem + "." + ext + ";1"
		}
		id := form(stem)
		for i := 1; used[id]; i++ {
			id = form(fmt.Sprintf("%s_%d", stem[:min(len(stem), 14)], i))
		}
		used[id] = true
		ids = append(ids, isoChild{id, c})
	}
	slices.SortFunc(ids, func(a, b isoChild) int { return cmp.Compare(a.id, b.id) })
	return ids
}

// records makes a folder's content. A record does not cross sectors.
func (v *volume) records(d *isoDir) ([]byte, error) {
	var b []byte
	var failed error
	add := func(id string, n *filetree.Node, at, size int64, flags byte, use []byte) {
		r := v.record(id, at, size, flags, use)
		if len(r) > 255 {
			failed = fmt.Errorf("%s: file name is too long for an ISO", n.String())
			return
		}
		if len(b)%sector+len(r) > sector {
			b = append(b, make([]byte, sector-len(b)%sector)...)
		}
		b = append(b, r...)
	}
	const isDir, moreExtents = 0x02, 0x80
	self := v.posix(d.node)
	if d.parent == d {
		self = append([]byte("SP\x07\x01\xbe\xef\x00"), self...)
		ce := []byte("CE\x1c\x01")
		ce = appendBoth32(ce, uint32(v.continuation))
		ce = appendBoth32(ce, 0)
		ce = appendBoth32(ce, uint32(len(v.continuationContents)))
		self = append(self, ce...)
	}
	add("\x00", d.node, d.at, d.size, isDir, self)
	add("\x01", d.parent.node, d.parent.at, d.parent.size, isDir, v.posix(d.parent.node))
	for _, c := range d.ids {
		use := append(rockRidgeName(c.node.Name), v.posix(c.node)...)
		if sub := d.subdirs[c.node]; sub != nil {
			add(c.id, c.node, sub.at, sub.size, isDir, use)
			continue
		}
		parts := v.files[c.node]
		if len(parts) == 0 {
			parts = []sparse.Part{{At: 0, Size: c.node.Size}} // it has no place yet, or needs none
		}
		for i, p := range parts {
			for p.Size > maxExtent {
				add(c.id, c.node, p.At/sector, maxExtent, moreExtents, use)
				p.At, p.Size = p.At+maxExtent, p.Size-maxExtent
			}
			more := byte(0)
			if i < len(parts)-1 {
				more = moreExtents
			}
			add(c.id, c.node, p.At/sector, p.Size, more, use)
		}
	}
	if rest := len(b) % sector; rest > 0 {
		b = append(b, make([]byte, sector-rest)...)
	}
	return b, failed
}

// record is ECMA-119, 9.1.
func (v *volume) record(id string, at, size int64, flags byte, use []byte) []byte {
	b := make([]byte, 2, 255)
	b = appendBoth32(b, uint32(at))
	b = appendBoth32(b, uint32(size))
	b = appendTime7(b, v.iso.Time)
	b = append(b, flags, 0, 0)
	b = appendBoth16(b, 1) // volume in the set
	b = append(b, byte(len(id)))
	b = append(b, id...)
	if len(id)%2 == 0 {
		b = append(b, 0)
	}
	b = append(b, use...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	b[0] = byte(min(len(b), 255))
	return b
}

func rockRidgeName(name string) []byte {
	b := []byte{'N', 'M', byte(min(5+len(name), 255)), 1, 0}
	return append(b, name...)
}

// posix makes Rock Ridge's PX and TF: mode, links, owner, times.
func (v *volume) posix(n *filetree.Node) []byte {
	mode, links := uint32(0o100000), uint32(1)
	if n.IsDir() {
		mode, links = 0o040000, uint32(2+n.Subdirs())
	}
	mode |= uint32(n.Mode.Perm() &^ fs.FileMode(0o222)) // the medium is read-only
	b := []byte("PX\x24\x01")
	for _, x := range []uint32{mode, links, 0, 0} {
		b = appendBoth32(b, x)
	}
	b = append(b, "TF\x1a\x01\x0e"...) // modification, access, attribute change
	for range 3 {
		b = appendTime7(b, v.iso.Time)
	}
	return b
}

// rockRidgeReference says that the system use fields are Rock Ridge's.
func rockRidgeReference() []byte {
	const id = "RRIP_1991A"
	const text = "THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS"
	const source = "PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN PRIMARY " +
		"VOLUME DESCRIPTOR FOR CONTACT INFORMATION."
	b := []byte{
		'E',
		'R',
		8 + byte(len(id)+len(text)+len(source)),
		1,
		byte(len(id)),
		byte(len(text)),
		byte(len(source)),
		1,
	}
	return append(b, id+text+source...)
}

func (v *volume) primaryDescriptor() []byte {
	b := make([]byte, 0, sector)
	b = append(b, "\x01CD001\x01\x00"...)
	b = append(b, pad("LINUX", 32)...)
	b = append(b, pad(v.iso.Volume, 32)...)
	b = append(b, make([]byte, 8)...)
	b = appendBoth32(b, uint32(v.next))
	b = append(b, make([]byte, 32)...)
	b = appendBoth16(b, 1) // volumes in the set
	b = appendBoth16(b, 1) // this one
	b = appendBoth16(b, sector)
	b = appendBoth32(b, uint32(v.pathTableSize))
	b = le.AppendUint32(b, uint32(v.pathTable))
	b = le.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(v.pathTableM))
	b = binary.BigEndian.AppendUint32(b, 0)
	root := v.dirs[0]
	b = append(b, v.record("\x00", root.at, root.size, 0x02, nil)...)
	b = append(b, pad("", 128)...)       // volume set
	b = append(b, pad("KAIROS", 128)...) // publisher
	b = append(b, pad("KAIROS", 128)...) // data preparer
	b = append(b, pad("KAIROS", 128)...) // application
	b = append(b, pad("", 3*37)...)      // copyright, abstract, bibliography
	b = appendTime17(b, v.iso.Time)      // created
	b = appendTime17(b, v.iso.Time)      // modified; blkid's UUID of the volume
	b = append(b, "0000000000000000\x00"...)
	b = append(b, "0000000000000000\x00"...)
	b = append(b, 1)
	return b[:sector]
}

func setTerminator() []byte {
	b := make([]byte, sector)
	copy(b, "\xffCD001\x01")
	return b
}

func pad(s string, n int) string { return s + strings.Repeat(" ", max(0, n-len(s))) }

// appendBoth16 and appendBoth32 append a number in both byte orders.
func appendBoth16(b []byte, x uint16) []byte {
	return binary.BigEndian.AppendUint16(le.AppendUint16(b, x), x)
}

func appendBoth32(b []byte, x uint32) []byte {
	return binary.BigEndian.AppendUint32(le.AppendUint32(b, x), x)
}

// appendTime7 appends a time as directory records have it, ECMA-119 9.1.5.
func appendTime7(b []byte, t time.Time) []byte {
	t = isoTime(t)
	return append(
		b,
		byte(t.Year()-1900),
		byte(t.Month()),
		byte(t.Day()),
		byte(t.Hour()),
		byte(t.Minute()),
		byte(t.Second()),
		0,
	)
}

// appendTime17 appends a time as volume descriptors have it, ECMA-119 8.4.26.1.
func appendTime17(b []byte, t time.Time) []byte {
	return append(b, isoTime(t).Format("20060102150405")+"00\x00"...)
}
