package disk

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
)

// fatVolume is a FAT file system that is being laid out.
type fatVolume struct {
	FAT
	fatGeometry
	fat    []uint32           // the chain of clusters
	runs   map[*node][]fatRun // what files are made of, where they may share clusters
	own    map[*node]uint32   // first cluster of those that a file or folder has for itself
	first  map[*node]uint32   // first cluster of each file and folder, 0 where empty
	next   uint32             // first free cluster
	beside uint32             // first cluster of the file beside
}

// allocate gives every file and folder its clusters: its own are one run.
func (v *fatVolume) allocate(root *node) error {
	v.next = fatReserved
	v.first, v.own = map[*node]uint32{}, map[*node]uint32{}
	var nodes []*node // that have clusters
	var failed error
	root.walk(func(n *node) {
		if n == root && !v.fat32 {
			if folderSize(n) > fat16Root*dirEntry {
				failed = fmt.Errorf("too many names in the root folder")
			}
			return
		}
		if !n.dir() && n.Size > maxFATFile {
			failed = fmt.Errorf("%s: %d bytes: FAT cannot hold a file of 4 GiB or more", n.path(), n.Size)
			return
		}
		if n.dir() || n.Size > 0 {
			nodes = append(nodes, n)
		}
		v.own[n] = v.next
		for _, r := range runsOf(v.runs, n) {
			if r.beside < 0 {
				v.next += v.count(r.size)
			}
		}
	})
	if failed != nil {
		return failed
	}
	if v.Beside != nil {
		v.beside = v.next
		for range v.count(v.Beside.Size) {
			v.fat[v.next] = fatBad
			v.next++
		}
	}
	for _, n := range nodes {
		last := uint32(0)
		v.eachRun(n, func(cluster uint32, r fatRun) {
			for i := range v.count(r.size) {
				if last == 0 {
					v.first[n] = cluster
				} else {
					v.fat[last] = cluster + i
				}
				last = cluster + i
			}
		})
		v.fat[last] = fatEnd
	}
	return nil
}

// count is how many clusters a number of bytes takes.
func (v *fatVolume) count(size int64) uint32 { return uint32(align(size, v.cluster) / v.cluster) }

// eachRun calls do for each of them, with the cluster where it begins.
func (v *fatVolume) eachRun(n *node, do func(cluster uint32, r fatRun)) {
	own := v.own[n]
	for _, r := range runsOf(v.runs, n) {
		if r.beside >= 0 {
			do(v.beside+uint32(r.beside/v.cluster), r)
			continue
		}
		do(own, r)
		own += v.count(r.size)
	}
}

// addFile writes what a file has for itself, and notes where all of it is.
func (v *fatVolume) addFile(m *Image, n *node) {
	v.eachRun(n, func(cluster uint32, r fatRun) {
		if r.beside < 0 {
			m.add(v.offset(cluster), r.content(n.File))
		}
		m.addPart(n.Path, Part{v.offset(cluster), r.size})
	})
}

// offset returns where a cluster is, in bytes.
func (v *fatVolume) offset(cluster uint32) int64 {
	if cluster == 0 {
		return 0
	}
	return v.data()*fatSector + int64(cluster-fatReserved)*v.cluster
}

// table encodes the FAT up to the last cluster in use; the rest is zero.
func (v *fatVolume) table() []byte {
	var b []byte
	for _, x := range v.fat[:v.next] {
		if v.fat32 {
			b = le.AppendUint32(b, x)
		} else {
			b = le.AppendUint16(b, uint16(x))
		}
	}
	return b
}

// addReserved writes the boot sector, and FAT32's FSInfo and copies.
func (v *fatVolume) addReserved(m *Image) {
	b := make([]byte, fatSector)
	copy(b, "\xeb\x58\x90KAIROS  ")
	le.PutUint16(b[11:], fatSector)
	b[13] = byte(v.cluster / fatSector)
	le.PutUint16(b[14:], uint16(v.reserved))
	b[16] = 2 // FATs
	if !v.fat32 {
		le.PutUint16(b[17:], fat16Root)
	}
	if v.total < 1<<16 && !v.fat32 {
		le.PutUint16(b[19:], uint16(v.total))
	} else {
		le.PutUint32(b[32:], uint32(v.total))
	}
	b[21] = 0xf8 // fixed disk
	le.PutUint16(b[24:], 63)
	le.PutUint16(b[26:], 255)
	le.PutUint32(b[28:], v.Hidden)
	tail := b[36:]
	kind := "FAT16   "
	if v.fat32 {
		kind = "FAT32   "
		le.PutUint32(b[36:], uint32(v.fatSectors))
		le.PutUint32(b[44:], v.first32())
		le.PutUint16(b[48:], 1) // FSInfo
		le.PutUint16(b[50:], 6) // copy of the boot sector
		tail = b[64:]
	} else {
		b[1] = 0x3c
		le.PutUint16(b[22:], uint16(v.fatSectors))
	}
	tail[0] = 0x80
	tail[2] = 0x29
	le.PutUint32(tail[3:], v.Serial)
	copy(tail[7:], v.label())
	copy(tail[18:], kind)
	b[510], b[511] = 0x55, 0xaa
	m.addBytes(0, "boot sector", b)
	if !v.fat32 {
		return
	}
	info := make([]byte, fatSector)
	copy(info, "RRaA")
	copy(info[484:], "rrAa")
	le.PutUint32(info[488:], uint32(v.clusters-int64(v.next-fatReserved)))
	le.PutUint32(info[492:], v.next)
	info[510], info[511] = 0x55, 0xaa
	m.addBytes(1*fatSector, "FSInfo", info)
	m.addBytes(6*fatSector, "boot sector's copy", b)
	m.addBytes(7*fatSector, "FSInfo's copy", info)
}

// first32 is the cluster of FAT32's root folder, which is allocated first.
func (v *fatVolume) first32() uint32 { return fatReserved }

func (v *fatVolume) label() string {
	if v.Label == "" {
		return "NO NAME    "
	}
	return pad(strings.ToUpper(v.Label), 11)
}

// folderSize is the size of a folder's entries: the label or the two dots, then for each
// child its long name, 13 characters an entry, and its short one.
func folderSize(n *node) int64 {
	entries := 2
	for _, c := range n.children {
		entries += 1 + len(longEntries(c.name))
	}
	return int64(entries) * dirEntry
}

// folder encodes a folder.
func (v *fatVolume) folder(n *node) ([]byte, error) {
	var b []byte
	if n.parent == nil {
		if v.Label != "" {
			b = append(b, v.entry([11]byte([]byte(v.label())), 0x08, 0, 0)...)
		}
	} else {
		parent := v.first[n.parent]
		if n.parent.parent == nil {
			parent = 0 // the root is 0 here, even on FAT32
		}
		b = append(b, v.entry([11]byte([]byte(pad(".", 11))), 0x10, v.first[n], 0)...)
		b = append(b, v.entry([11]byte([]byte(pad("..", 11))), 0x10, parent, 0)...)
	}
	used := map[[11]byte]bool{}
	seen := map[string]bool{}
	for _, c := range n.children {
		if strings.ContainsAny(c.name, "\"*/:<>?\\|") || len(c.name) > 255 || strings.HasSuffix(c.name, ".") || strings.HasSuffix(c.name, " ") {
			return nil, fmt.Errorf("%s: FAT cannot hold this name", c.path())
		}
		if fold := strings.ToLower(c.name); seen[fold] {
			return nil, fmt.Errorf("%s: another file differs in case only", c.path())
		} else {
			seen[fold] = true
		}
		short := shortName(c.name, used)
		used[short] = true
		for _, e := range longEntries(c.name) {
			e[13] = checksum(short)
			b = append(b, e[:]...)
		}
		attr, size := byte(0x20), uint32(c.Size)
		if c.dir() {
			attr, size = 0x10, 0
		}
		b = append(b, v.entry(short, attr, v.first[c], size)...)
	}
	return b, nil
}

func (v *fatVolume) entry(name [11]byte, attr byte, cluster, size uint32) []byte {
	date, clock := fatTime(v.Time)
	b := make([]byte, dirEntry)
	copy(b, name[:])
	b[11] = attr
	le.PutUint16(b[14:], clock) // created
	le.PutUint16(b[16:], date)
	le.PutUint16(b[18:], date) // accessed
	le.PutUint16(b[20:], uint16(cluster>>16))
	le.PutUint16(b[22:], clock) // written
	le.PutUint16(b[24:], date)
	le.PutUint16(b[26:], uint16(cluster))
	le.PutUint32(b[28:], size)
	return b
}

// fatTime encodes a time as FAT has it.
func fatTime(t time.Time) (date, clock uint16) {
	t = t.UTC()
	if t.Year() < 1980 {
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if t.Year() > 2107 {
		t = time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)
	}
	date = uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day())
	clock = uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
	return date, clock
}

// shortAllowed are the characters of a short name beside letters and digits.
const shortAllowed = "$%'-_@~`!(){}^#&"

// shortName makes the 8.3 name of a file: the name itself where that is one, else one with
// a number that no other in the folder has.
func shortName(name string, used map[[11]byte]bool) [11]byte {
	clean := func(s string, limit int) string {
		s = strings.Map(func(r rune) rune {
			if r == ' ' || r == '.' {
				return -1
			}
			if r < 128 && (r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(shortAllowed, r)) {
				return r
			}
			return '_'
		}, strings.ToUpper(s))
		return s[:min(len(s), limit)]
	}
	stem, ext := name, ""
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		stem, ext = name[:i], name[i+1:]
	}
	form := func(stem string) (b [11]byte) {
		copy(b[:], pad(stem, 8)+pad(clean(ext, 3), 3))
		return b
	}
	if short := form(clean(stem, 8)); isShort(name) && !used[short] {
		return short
	}
	for i := 1; ; i++ {
		tail := fmt.Sprintf("~%d", i)
		if short := form(clean(stem, 8-len(tail)) + tail); !used[short] {
			return short
		}
	}
}

// isShort says whether a name is its own 8.3 name, in capitals and all.
func isShort(name string) bool {
	stem, ext, _ := strings.Cut(name, ".")
	ok := func(s string, limit int) bool {
		return len(s) <= limit && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"+shortAllowed) == ""
	}
	return stem != "" && ok(stem, 8) && ok(ext, 3) && (ext != "" || !strings.Contains(name, "."))
}

// longEntries encodes a long name, last part first; the checksum is left to fill in.
func longEntries(name string) [][dirEntry]byte {
	if isShort(name) {
		return nil
	}
	units := utf16.Encode([]rune(name))
	parts := (len(units) + 12) / 13
	entries := make([][dirEntry]byte, 0, parts)
	for part := parts; part > 0; part-- {
		var e [dirEntry]byte
		e[0] = byte(part)
		if part == parts {
			e[0] |= 0x40
		}
		e[11] = 0x0f
		for i := range 13 {
			at := 1 + 2*i
			if i >= 5 {
				at += 3
			}
			if i >= 11 {
				at += 2
			}
			unit := uint16(0xffff) // after the end
			switch k := (part-1)*13 + i; {
			case k < len(units):
				unit = units[k]
			case k == len(units):
				unit = 0
			}
			le.PutUint16(e[at:], unit)
		}
		entries = append(entries, e)
	}
	return entries
}

// checksum ties a long name's entries to the short name.
func checksum(short [11]byte) byte {
	var sum byte
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}
