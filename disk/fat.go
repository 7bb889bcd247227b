package disk

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/kairos-buildkit/kairos/disk/fat"
)

// FAT describes a FAT file system with long file names: FAT16 up to 65,524 clusters, FAT32
// above (the cluster count alone decides, by the specification).
//
//	boot sector · FAT32: FSInfo, copy of both at sector 6 · 2 FATs · FAT16: root folder · clusters
//
// Every file is contiguous, but for what it shares with the file beside. Microsoft, "FAT32 File System Specification"
// 1.03.
type FAT struct {
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
	Files  []File
	// Beside is a file that lies in one run behind the others without being in a folder, for another file system that
	// has it at the same place. A cluster that a file of the volume has in common with it is there only; its others
	// are marked bad, so that nothing is written there. Files are then opened more than once.
	Beside *File
}

const (
	fat16Root  = 512 // entries in the root folder of FAT16
	maxCluster = 32 << 10
)

// fatGeometry places the parts of a FAT file system, in sectors.
type fatGeometry struct {
	fat32       bool
	sector      int64 // bytes in a sector
	cluster     int64 // bytes in a cluster
	total       int64 // sectors
	reserved    int64
	fatSectors  int64
	rootSectors int64 // FAT16
	clusters    int64
}

func (g fatGeometry) data() int64 { return g.reserved + 2*g.fatSectors + g.rootSectors }

// sectorSize is SectorSize, or what it stands for.
func (f FAT) sectorSize() int64 {
	if f.SectorSize == 0 {
		return 512
	}
	return f.SectorSize
}

// geometry finds the parts' sizes for a number of sectors and a cluster size.
func geometry(total, fatSector, cluster int64) (fatGeometry, error) {
	for _, fat32 := range []bool{false, true} {
		g := fatGeometry{
			fat32:       fat32,
			sector:      fatSector,
			cluster:     cluster,
			total:       total,
			reserved:    1,
			rootSectors: fat16Root * fat.DirentSize / fatSector,
		}
		entry := int64(2)
		if fat32 {
			g.reserved, g.rootSectors, entry = 32, 0, 4
		}
		// The FAT has to hold an entry for each cluster that is left beside it. Growing it
		// takes clusters away, so this ends.
		for {
			g.clusters = (total - g.data()) * fatSector / cluster
			if need := align((max(g.clusters, 0)+fat.FirstCluster)*entry, fatSector) / fatSector; need > g.fatSectors {
				g.fatSectors = need
				continue
			}
			break
		}
		// Clusters begin at a multiple of 2048 bytes, for a volume that shows parts of files in
		// them as its own, see ISO.Shared.
		if perSector := max(sector/fatSector, 1); g.data()%perSector != 0 {
			g.reserved += perSector - g.data()%perSector
			g.clusters = (total - g.data()) * fatSector / cluster
		}
		fits := g.clusters >= fat.MinFAT16 && g.clusters <= fat.MaxFAT16
		if fat32 {
			fits = g.clusters > fat.MaxFAT16 && g.clusters <= fat.MaxFAT32
		}
		if fits && total <= math.MaxUint32 { // the number of sectors has 32 bits
			return g, nil
		}
	}
	return fatGeometry{}, errors.New("no FAT type has this number of clusters")
}

// Image lays the file system out.
func (f FAT) Image() (*Image, error) {
	m, err := f.image()
	if err != nil {
		return nil, fmt.Errorf("lay out FAT file system %s: %w", f.Label, err)
	}
	return m, nil
}

func (f FAT) image() (*Image, error) {
	if n := f.sectorSize(); n < 512 || n > besideCluster || n&(n-1) != 0 {
		return nil, fmt.Errorf("sectors of %d bytes", n)
	}
	if len(f.Label) > 11 {
		return nil, errors.New("the label has more than 11 characters")
	}
	root, err := tree(f.Files)
	if err != nil {
		return nil, err
	}
	runs, err := f.runs(root)
	if err != nil {
		return nil, err
	}
	g, err := f.size(root, runs)
	if err != nil {
		return nil, err
	}
	v := &fatVolume{FAT: f, fatGeometry: g, runs: runs, table: make([]uint32, g.clusters+fat.FirstCluster)}
	v.table[0], v.table[1] = 0x0ffffff8, fat.End
	if err := v.allocate(root); err != nil {
		return nil, err
	}
	m := &Image{Size: g.total * g.sector}
	v.addReserved(m)
	for i := range int64(2) {
		m.addBytes((g.reserved+i*g.fatSectors)*g.sector, "FAT", v.encode())
	}
	if f.Beside != nil {
		m.add(v.offset(v.beside), f.Beside.extent())
		m.addPart(f.Beside.Path, Part{v.offset(v.beside), f.Beside.Size})
	}
	var failed error
	root.walk(func(n *node) {
		if !n.dir() {
			v.addFile(m, n)
			return
		}
		b, err := v.folder(n)
		if err != nil && failed == nil {
			failed = err
		}
		at := (g.reserved + 2*g.fatSectors) * g.sector // FAT16's root
		if n != root || g.fat32 {
			at = v.offset(v.first[n])
			b = append(b, make([]byte, align(int64(len(b)), g.cluster)-int64(len(b)))...)
		}
		m.addBytes(at, "folder "+n.path(), b)
	})
	if failed != nil {
		return nil, failed
	}
	return m, m.zeroGapsIn(0, g.data()*g.sector)
}

// size chooses the geometry: the given size, or the smallest that fits.
func (f FAT) size(root *node, runs map[*node][]fatRun) (fatGeometry, error) {
	fatSector := f.sectorSize()
	if f.Size > 0 {
		if f.Size%fatSector != 0 {
			return fatGeometry{}, fmt.Errorf("size %d is not a multiple of %d", f.Size, fatSector)
		}
		// 4 KiB clusters where they give a valid number of them, as mkfs.fat has them.
		for _, cluster := range f.clusterSizes(4096, 8192, 16384, maxCluster, 2048, 1024, 512) {
			g, err := geometry(f.Size/fatSector, fatSector, cluster)
			if err != nil {
				continue
			}
			if need := f.need(root, runs, g); need > g.clusters {
				return g, fmt.Errorf(
					"the files need %d bytes, the file system has %d",
					need*cluster,
					g.clusters*cluster,
				)
			}
			return g, nil
		}
		return fatGeometry{}, fmt.Errorf("%d bytes are too few, or too many, for FAT", f.Size)
	}
	// Grow from the size of the content alone until all fits beside the tables.
	sizes := f.clusterSizes(2048, 4096, 8192, 16384, maxCluster)
	for i, cluster := range sizes {
		need := max(f.need(root, runs, fatGeometry{cluster: cluster}), fat.MinFAT16)
		if need > fat.MaxFAT16 && i < len(sizes)-1 {
			continue
		}
		total := need * cluster / fatSector
		for {
			g, err := geometry(total, fatSector, cluster)
			if err == nil && f.need(root, runs, g) <= g.clusters {
				return g, nil
			}
			if total*fatSector > 1<<41 {
				return g, errors.New("the files exceed what FAT can hold")
			}
			total += cluster / fatSector
		}
	}
	panic("unreachable: the last cluster size fits, or nothing does")
}

// clusterSizes are the cluster sizes to try, in this order: a cluster has a sector or more.
func (f FAT) clusterSizes(sizes ...int64) []int64 {
	sizes = slices.DeleteFunc(sizes, func(n int64) bool { return n < f.sectorSize() })
	if f.Beside != nil {
		return []int64{besideCluster}
	}
	return sizes
}

// need counts the clusters that the tree takes, and the file beside it.
func (f FAT) need(root *node, runs map[*node][]fatRun, g fatGeometry) int64 {
	count := int64(0)
	if f.Beside != nil {
		count = align(f.Beside.Size, g.cluster) / g.cluster
	}
	root.walk(func(n *node) {
		if n == root && !g.fat32 {
			return
		}
		for _, r := range runsOf(runs, n) {
			if r.beside < 0 {
				count += align(r.size, g.cluster) / g.cluster
			}
		}
	})
	return count
}
