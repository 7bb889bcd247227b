package disk

import (
	"fmt"
	"strings"

	"github.com/kairos-buildkit/kairos/disk/fat"
)

// fatVolume is a FAT file system that is being laid out.
type fatVolume struct {
	FAT
	fatGeometry
	table  []uint32           // the chain of clusters
	runs   map[*node][]fatRun // what files are made of, where they may share clusters
	own    map[*node]uint32   // first cluster of those that a file or folder has for itself
	first  map[*node]uint32   // first cluster of each file and folder, 0 where empty
	next   uint32             // first free cluster
	beside uint32             // first cluster of the file beside
}

// allocate gives every file and folder its clusters: its own are one run.
func (v *fatVolume) allocate(root *node) error {
	v.next = fat.FirstCluster
	v.first, v.own = map[*node]uint32{}, map[*node]uint32{}
	var nodes []*node // that have clusters
	var failed error
	root.walk(func(n *node) {
		if n == root && !v.fat32 {
			if folderSize(n) > fat16Root*fat.DirentSize {
				failed = fmt.Errorf("too many names in the root folder")
			}
			return
		}
		if !n.dir() && n.Size > fat.MaxFile {
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
			v.table[v.next] = fat.Bad
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
					v.table[last] = cluster + i
				}
				last = cluster + i
			}
		})
		v.table[last] = fat.End
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
	return v.data()*v.sector + int64(cluster-fat.FirstCluster)*v.cluster
}

// encode encodes the FAT up to the last cluster in use; the rest is zero.
func (v *fatVolume) encode() []byte {
	var b []byte
	for _, x := range v.table[:v.next] {
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
	h := fat.Header{
		FAT32:      v.fat32,
		Sector:     v.sector,
		PerCluster: v.cluster / v.sector,
		Reserved:   v.reserved,
		FATs:       2,
		FATSectors: v.fatSectors,
		Total:      v.total,
		Hidden:     v.Hidden,
		Serial:     v.Serial,
		Label:      [11]byte([]byte(v.label())),
	}
	if !v.fat32 {
		h.RootEntries = fat16Root
		m.addBytes(0, "boot sector", h.Encode())
		return
	}
	h.RootCluster = fat.FirstCluster // the root folder is allocated first
	b, info := h.Encode(), h.Info(uint32(v.clusters-int64(v.next-fat.FirstCluster)), v.next)
	m.addBytes(0, "boot sector", b)
	m.addBytes(fat.InfoSector*v.sector, "FSInfo", info)
	m.addBytes(fat.CopySector*v.sector, "boot sector's copy", b)
	m.addBytes((fat.CopySector+1)*v.sector, "FSInfo's copy", info)
}

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
		entries += 1 + len(fat.NameDirents(c.name, [11]byte{}))
	}
	return int64(entries) * fat.DirentSize
}

// folder encodes a folder.
func (v *fatVolume) folder(n *node) ([]byte, error) {
	var b []byte
	if n.parent == nil {
		if v.Label != "" {
			b = append(b, v.entry([11]byte([]byte(v.label())), fat.AttrVolume, 0, 0)...)
		}
	} else {
		parent := v.first[n.parent]
		if n.parent.parent == nil {
			parent = 0 // the root is 0 here, even on FAT32
		}
		b = append(b, v.entry([11]byte([]byte(pad(".", 11))), fat.AttrDir, v.first[n], 0)...)
		b = append(b, v.entry([11]byte([]byte(pad("..", 11))), fat.AttrDir, parent, 0)...)
	}
	used := map[[11]byte]bool{}
	seen := map[string]bool{}
	for _, c := range n.children {
		if strings.ContainsAny(c.name, "\"*/:<>?\\|") || len(c.name) > 255 || strings.HasSuffix(c.name, ".") ||
			strings.HasSuffix(c.name, " ") {
			return nil, fmt.Errorf("%s: FAT cannot hold this name", c.path())
		}
		if fold := strings.ToLower(c.name); seen[fold] {
			return nil, fmt.Errorf("%s: another file differs in case only", c.path())
		} else {
			seen[fold] = true
		}
		short := fat.ShortName(c.name, used)
		used[short] = true
		for _, e := range fat.NameDirents(c.name, short) {
			b = append(b, e[:]...)
		}
		attr, size := byte(fat.AttrArchive), uint32(c.Size)
		if c.dir() {
			attr, size = fat.AttrDir, 0
		}
		b = append(b, v.entry(short, attr, v.first[c], size)...)
	}
	return b, nil
}

func (v *fatVolume) entry(name [11]byte, attr byte, cluster, size uint32) []byte {
	return fat.Dirent{Name: name, Attr: attr, Cluster: cluster, Size: size, Time: v.Time}.Encode()
}
