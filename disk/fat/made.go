package fat

import (
	"fmt"
	"strings"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/sparse"
)

// made is a FAT file system that is being laid out.
type made struct {
	FileSystem
	header
	table  []uint32                  // the chain of clusters
	runs   map[*filetree.Node][]run  // what files are made of, where they may share clusters
	own    map[*filetree.Node]uint32 // first cluster of those that a file or folder has for itself
	first  map[*filetree.Node]uint32 // first cluster of each file and folder, 0 where empty
	next   uint32                    // first free cluster
	beside uint32                    // first cluster of the file beside
}

// allocate gives every file and folder its clusters: its own are one run.
func (v *made) allocate(root *filetree.Node) error {
	v.next = firstCluster
	v.first, v.own = map[*filetree.Node]uint32{}, map[*filetree.Node]uint32{}
	var nodes []*filetree.Node // that have clusters
	var failed error
	root.Walk(func(n *filetree.Node) {
		if n == root && !v.FAT32 {
			if folderSize(n) > rootEntries*direntSize {
				failed = fmt.Errorf("too many names in the root folder")
			}
			return
		}
		if !n.IsDir() && n.Size > maxFile {
			failed = fmt.Errorf("%s: %d bytes: FAT cannot hold a file of 4 GiB or more", n.String(), n.Size)
			return
		}
		if n.IsDir() || n.Size > 0 {
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
			v.table[v.next] = badCluster
			v.next++
		}
	}
	for _, n := range nodes {
		last := uint32(0)
		v.eachRun(n, func(cluster uint32, r run) {
			for i := range v.count(r.size) {
				if last == 0 {
					v.first[n] = cluster
				} else {
					v.table[last] = cluster + i
				}
				last = cluster + i
			}
		})
		v.table[last] = endOfChain
	}
	return nil
}

// count is how many clusters a number of bytes takes.
func (v *made) count(size int64) uint32 { return uint32(align(size, v.cluster()) / v.cluster()) }

// eachRun calls do for each of them, with the cluster where it begins.
func (v *made) eachRun(n *filetree.Node, do func(cluster uint32, r run)) {
	own := v.own[n]
	for _, r := range runsOf(v.runs, n) {
		if r.beside >= 0 {
			do(v.beside+uint32(r.beside/v.cluster()), r)
			continue
		}
		do(own, r)
		own += v.count(r.size)
	}
}

// addFile writes what a file has for itself, and notes where all of it is.
func (v *made) addFile(m *sparse.Image, n *filetree.Node) {
	v.eachRun(n, func(cluster uint32, r run) {
		if r.beside < 0 {
			m.Add(v.offset(cluster), r.content(n.File))
		}
		m.AddPart(n.Path, sparse.Part{At: v.offset(cluster), Size: r.size})
	})
}

// offset returns where a cluster is, in bytes.
func (v *made) offset(cluster uint32) int64 {
	if cluster == 0 {
		return 0
	}
	return v.data() + int64(cluster-firstCluster)*v.cluster()
}

// encodeTable encodes the FAT up to the last cluster in use; the rest is zero.
func (v *made) encodeTable() []byte {
	var b []byte
	for _, x := range v.table[:v.next] {
		if v.FAT32 {
			b = le.AppendUint32(b, x)
		} else {
			b = le.AppendUint16(b, uint16(x))
		}
	}
	return b
}

// addReserved writes the boot sector, and FAT32's FSInfo and copies.
func (v *made) addReserved(m *sparse.Image) {
	boot := v.header.encode()
	m.AddBytes(0, "boot sector", boot)
	if !v.FAT32 {
		return
	}
	info := v.info(uint32(v.clusters()-int64(v.next-firstCluster)), v.next)
	m.AddBytes(infoSector*v.Sector, "FSInfo", info)
	m.AddBytes(copySector*v.Sector, "boot sector's copy", boot)
	m.AddBytes((copySector+1)*v.Sector, "FSInfo's copy", info)
}

// label is Label as a boot sector and a root folder have it.
func (f FileSystem) label() [11]byte {
	if f.Label == "" {
		return padded("NO NAME")
	}
	return padded(strings.ToUpper(f.Label))
}

// padded is a name of 11 characters, spaces at its end.
func padded(name string) [11]byte { return [11]byte(fmt.Appendf(nil, "%-11s", name)) }

// folderSize is the size of a folder's entries: the label or the two dots, then for each
// child its long name, 13 characters an entry, and its short one.
func folderSize(n *filetree.Node) int64 {
	entries := 2
	for _, c := range n.Children {
		entries += 1 + len(nameDirents(c.Name, [11]byte{}))
	}
	return int64(entries) * direntSize
}

// folder encodes a folder.
func (v *made) folder(n *filetree.Node) ([]byte, error) {
	var b []byte
	if n.Parent == nil {
		if v.FileSystem.Label != "" {
			b = append(b, v.dirent(v.label(), attrVolume, 0, 0)...)
		}
	} else {
		parent := v.first[n.Parent]
		if n.Parent.Parent == nil {
			parent = 0 // the root is 0 here, even on FAT32
		}
		b = append(b, v.dirent(padded("."), attrDir, v.first[n], 0)...)
		b = append(b, v.dirent(padded(".."), attrDir, parent, 0)...)
	}
	used := map[[11]byte]bool{}
	seen := map[string]bool{}
	for _, c := range n.Children {
		if strings.ContainsAny(c.Name, "\"*/:<>?\\|") || len(c.Name) > 255 || strings.HasSuffix(c.Name, ".") ||
			strings.HasSuffix(c.Name, " ") {
			return nil, fmt.Errorf("%s: FAT cannot hold this name", c.String())
		}
		if fold := strings.ToLower(c.Name); seen[fold] {
			return nil, fmt.Errorf("%s: another file differs in case only", c.String())
		} else {
			seen[fold] = true
		}
		short := shortName(c.Name, used)
		used[short] = true
		for _, e := range nameDirents(c.Name, short) {
			b = append(b, e[:]...)
		}
		attr, size := byte(attrArchive), uint32(c.Size)
		if c.IsDir() {
			attr, size = attrDir, 0
		}
		b = append(b, v.dirent(short, attr, v.first[c], size)...)
	}
	return b, nil
}

func (v *made) dirent(name [11]byte, attr byte, cluster, size uint32) []byte {
	return shortDirent{Name: name, Attr: attr, Cluster: cluster, Size: size, Time: v.Time}.encode()
}
