package fat

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/sparse"
)

// FileSystem is a FAT file system with long file names that is to be made: FAT16 up to 65,524 clusters, FAT32
// above (the cluster count alone decides, by the specification).
//
//	boot sector · FAT32: FSInfo, copy of both at sector 6 · 2 FATs · FAT16: root folder · clusters
//
// Every file is contiguous, but for what it shares with the file beside. Equal input gives equal bytes. [Open] reads
// what was written, and changes it.
type FileSystem struct {
	Label  string // volume label, at most 11 characters
	Serial uint32 // volume serial number
	// Size is the file system's size in bytes, a multiple of its sectors. Zero is the smallest that
	// holds the files.
	Size int64
	// SectorSize is the disk's, in bytes: 512, which 0 stands for, to 4096.
	SectorSize int64
	// Hidden is the number of sectors before the file system on its disk.
	Hidden uint32
	Time   time.Time // of all files; from 1980 to 2107, in steps of two seconds
	Files  []filetree.File
	// Beside is a file that lies in one run behind the others without being in a folder, for another file system that
	// has it at the same place. A cluster that a file of the volume has in common with it is there only; its others
	// are marked bad, so that nothing is written there. Files are then opened more than once.
	Beside *filetree.File
}

const (
	rootEntries = 512 // in the root folder of FAT16
	maxCluster  = 32 << 10
	// isoSector is a sector of an ISO: clusters begin at a multiple of it, so that a volume around this one can show
	// parts of it as files of its own.
	isoSector = 2048
)

// sectorSize is SectorSize, or what it stands for.
func (f FileSystem) sectorSize() int64 {
	if f.SectorSize == 0 {
		return 512
	}
	return f.SectorSize
}

// geometry finds the parts' sizes for a number of sectors, and sizes of sector and cluster in bytes.
func geometry(total, sector, cluster int64) (header, error) {
	for _, fat32 := range []bool{false, true} {
		h := header{
			Sector: sector, PerCluster: cluster / sector, Reserved: 1, FATs: 2, RootEntries: rootEntries, Total: total,
		}
		entry := int64(2)
		if fat32 {
			h.FAT32, h.Reserved, h.RootEntries, h.RootCluster, entry = true, 32, 0, firstCluster, 4
		}
		// The FAT has to hold an entry for each cluster that is left beside it. Growing it
		// takes clusters away, so this ends.
		for {
			need := align((max(h.clusters(), 0)+firstCluster)*entry, sector) / sector
			if need <= h.FATSectors {
				break
			}
			h.FATSectors = need
		}
		if part := h.data() % isoSector; part != 0 {
			h.Reserved += (isoSector - part) / sector
		}
		n := h.clusters()
		fits := n >= minFAT16 && n <= maxFAT16
		if fat32 {
			fits = n > maxFAT16 && n <= maxFAT32
		}
		if fits && total <= math.MaxUint32 { // the number of sectors has 32 bits
			return h, nil
		}
	}
	return header{}, errors.New("no FAT type has this number of clusters")
}

// Image lays the file system out. Names that FAT cannot hold, or that differ in case only, are refused, and so are
// files that do not fit.
func (f FileSystem) Image() (*sparse.Image, error) {
	m, err := f.image()
	if err != nil {
		return nil, fmt.Errorf("lay out FAT file system %s: %w", f.Label, err)
	}
	return m, nil
}

func (f FileSystem) image() (*sparse.Image, error) {
	if n := f.sectorSize(); n < 512 || n > besideCluster || n&(n-1) != 0 {
		return nil, fmt.Errorf("sectors of %d bytes", n)
	}
	if len(f.Label) > 11 {
		return nil, errors.New("the label has more than 11 characters")
	}
	root, err := filetree.New(f.Files)
	if err != nil {
		return nil, err
	}
	runs, err := f.runs(root)
	if err != nil {
		return nil, err
	}
	h, err := f.size(root, runs)
	if err != nil {
		return nil, err
	}
	h.Hidden, h.Serial, h.Label = f.Hidden, f.Serial, f.label()
	v := &made{FileSystem: f, header: h, runs: runs, table: make([]uint32, h.clusters()+firstCluster)}
	v.table[0], v.table[1] = 0x0ffffff8, endOfChain
	if err := v.allocate(root); err != nil {
		return nil, err
	}
	m := &sparse.Image{Size: h.Total * h.Sector}
	v.addReserved(m)
	for i := range h.FATs {
		m.AddBytes(h.fatAt(i), "FAT", v.encodeTable())
	}
	if f.Beside != nil {
		m.Add(v.offset(v.beside), f.Beside.Extent())
		m.AddPart(f.Beside.Path, sparse.Part{At: v.offset(v.beside), Size: f.Beside.Size})
	}
	var failed error
	root.Walk(func(n *filetree.Node) {
		if !n.IsDir() {
			v.addFile(m, n)
			return
		}
		b, err := v.folder(n)
		if err != nil && failed == nil {
			failed = err
		}
		at := h.rootAt() // FAT16's
		if n != root || h.FAT32 {
			at = v.offset(v.first[n])
			b = append(b, make([]byte, align(int64(len(b)), h.cluster())-int64(len(b)))...)
		}
		m.AddBytes(at, "folder "+n.String(), b)
	})
	if failed != nil {
		return nil, failed
	}
	return m, m.ZeroGaps(0, h.data())
}

// size chooses the geometry: the given size, or the smallest that fits.
func (f FileSystem) size(root *filetree.Node, runs map[*filetree.Node][]run) (header, error) {
	sector := f.sectorSize()
	if f.Size > 0 {
		if f.Size%sector != 0 {
			return header{}, fmt.Errorf("size %d is not a multiple of %d", f.Size, sector)
		}
		// 4 KiB clusters where they give a valid number of them, as mkfs.fat has them.
		for _, cluster := range f.clusterSizes(4096, 8192, 16384, maxCluster, 2048, 1024, 512) {
			h, err := geometry(f.Size/sector, sector, cluster)
			if err != nil {
				continue
			}
			if need := f.need(root, runs, h); need > h.clusters() {
				return h, fmt.Errorf(
					"the files need %d bytes, the file system has %d",
					need*cluster,
					h.clusters()*cluster,
				)
			}
			return h, nil
		}
		return header{}, fmt.Errorf("%d bytes are too few, or too many, for FAT", f.Size)
	}
	// Grow from the size of the content alone until all fits beside the tables.
	sizes := f.clusterSizes(2048, 4096, 8192, 16384, maxCluster)
	for i, cluster := range sizes {
		need := max(f.need(root, runs, header{Sector: sector, PerCluster: cluster / sector}), minFAT16)
		if need > maxFAT16 && i < len(sizes)-1 {
			continue
		}
		total := need * cluster / sector
		for {
			h, err := geometry(total, sector, cluster)
			if err == nil && f.need(root, runs, h) <= h.clusters() {
				return h, nil
			}
			if total*sector > 1<<41 {
				return h, errors.New("the files exceed what FAT can hold")
			}
			total += cluster / sector
		}
	}
	panic("unreachable: the last cluster size fits, or nothing does")
}

// clusterSizes are the cluster sizes to try, in this order: a cluster has a sector or more.
func (f FileSystem) clusterSizes(sizes ...int64) []int64 {
	sizes = slices.DeleteFunc(sizes, func(n int64) bool { return n < f.sectorSize() })
	if f.Beside != nil {
		return []int64{besideCluster}
	}
	return sizes
}

// need counts the clusters that the tree takes, and the file beside it.
func (f FileSystem) need(root *filetree.Node, runs map[*filetree.Node][]run, h header) int64 {
	count := int64(0)
	if f.Beside != nil {
		count = align(f.Beside.Size, h.cluster()) / h.cluster()
	}
	root.Walk(func(n *filetree.Node) {
		if n == root && !h.FAT32 {
			return
		}
		for _, r := range runsOf(runs, n) {
			if r.beside < 0 {
				count += align(r.size, h.cluster()) / h.cluster()
			}
		}
	})
	return count
}

// align rounds n up to a multiple of to.
func align(n, to int64) int64 { return (n + to - 1) / to * to }
