package disk

import "github.com/kairos-buildkit/kairos/disk/sparse"

// QCOW2 returns the image as a QEMU disk, version 3: only clusters with content take space.
//
//	cluster (64 KiB)
//	0     header
//	1     refcount table · refcount blocks: every cluster of the file is used once
//	...   L1 table · L2 tables: where each cluster of the disk is in the file
//	...   the disk's clusters that have content, in their order
//
// QEMU, docs/interop/qcow2.txt.
func QCOW2(disk *sparse.Image) (*sparse.Image, error) {
	extents, err := disk.Extents()
	if err != nil {
		return nil, err
	}
	q := qcow2{size: disk.Size}
	q.findData(extents)
	q.place()

	m := &sparse.Image{Size: q.end * qcowCluster}
	m.AddBytes(0, "qcow2 header", q.header())
	m.AddBytes(q.refTable*qcowCluster, "refcount table", q.refcountTable())
	m.AddBytes(q.refBlocks*qcowCluster, "refcount blocks", q.refcounts())
	m.AddBytes(q.l1*qcowCluster, "L1 table", q.l1Table())
	m.AddBytes(q.l2*qcowCluster, "L2 tables", q.l2Tables())
	k := 0
	for _, e := range extents {
		if e.Open == nil {
			continue
		}
		for e.At >= (q.data[k].at+q.data[k].count)*qcowCluster {
			k++
		}
		m.Add(e.At+(q.host[k]-q.data[k].at)*qcowCluster, e)
	}
	return m, nil
}

const (
	qcowBits    = 16
	qcowCluster = 1 << qcowBits
	qcowL2      = qcowCluster / 8 // entries in an L2 table
	qcowRefs    = qcowCluster / 2 // entries in a refcount block
)

// qcow2 is a file that is being laid out; positions are in clusters.
type qcow2 struct {
	size int64
	data []run   // clusters of the disk with content
	host []int64 // where they are in the file

	refTable, refTableSize   int64
	refBlocks, refBlockCount int64
	l1, l1Size               int64
	l2, l2Count              int64
	end                      int64

	tables map[int64]int64 // L1 index to the number of its L2 table
}

// findData joins extents to runs of clusters.
func (q *qcow2) findData(extents []sparse.Extent) {
	for _, e := range extents {
		if e.Open == nil {
			continue
		}
		from, to := e.At/qcowCluster, (e.At+e.Size-1)/qcowCluster+1
		if n := len(q.data); n > 0 && q.data[n-1].at+q.data[n-1].count >= from {
			q.data[n-1].count = to - q.data[n-1].at
			continue
		}
		q.data = append(q.data, run{from, to - from})
	}
}

func ceil(n, by int64) int64 { return (n + by - 1) / by }

func (q *qcow2) place() {
	q.tables = map[int64]int64{}
	total := int64(0)
	for _, r := range q.data {
		total += r.count
		for i := r.at / qcowL2; i <= (r.at+r.count-1)/qcowL2; i++ {
			if _, ok := q.tables[i]; !ok {
				q.tables[i] = int64(len(q.tables))
			}
		}
	}
	q.l2Count = int64(len(q.tables))
	q.l1Size = ceil(ceil(ceil(q.size, qcowCluster), qcowL2)*8, qcowCluster)
	// The refcounts count their own clusters too.
	for q.refBlockCount = 1; ; q.refBlockCount++ {
		q.refTableSize = ceil(q.refBlockCount*8, qcowCluster)
		q.end = 1 + q.refTableSize + q.refBlockCount + q.l1Size + q.l2Count + total
		if q.end <= q.refBlockCount*qcowRefs {
			break
		}
	}
	q.refTable = 1
	q.refBlocks = q.refTable + q.refTableSize
	q.l1 = q.refBlocks + q.refBlockCount
	q.l2 = q.l1 + q.l1Size
	at := q.l2 + q.l2Count
	for _, r := range q.data {
		q.host = append(q.host, at)
		at += r.count
	}
}

func (q *qcow2) header() []byte {
	b := make([]byte, 112)
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], qcowBits)
	be.PutUint64(b[24:], uint64(align(q.size, 512)))
	be.PutUint32(b[36:], uint32(ceil(ceil(q.size, qcowCluster), qcowL2)))
	be.PutUint64(b[40:], uint64(q.l1*qcowCluster))
	be.PutUint64(b[48:], uint64(q.refTable*qcowCluster))
	be.PutUint32(b[56:], uint32(q.refTableSize))
	be.PutUint32(b[96:], 4) // refcounts have 16 bits
	be.PutUint32(b[100:], 104)
	return b // ends with the end of header extensions: eight zeros
}

func (q *qcow2) refcountTable() (b []byte) {
	for i := range q.refBlockCount {
		b = be.AppendUint64(b, uint64((q.refBlocks+i)*qcowCluster))
	}
	return b
}

func (q *qcow2) refcounts() []byte {
	b := make([]byte, 2*q.end)
	for i := range q.end {
		b[2*i+1] = 1
	}
	return b
}

// usedOnce marks a cluster that no snapshot shares.
const usedOnce = 1 << 63

func (q *qcow2) l1Table() []byte {
	b := make([]byte, q.l1Size*qcowCluster)
	for i, table := range q.tables {
		be.PutUint64(b[i*8:], uint64((q.l2+table)*qcowCluster)|usedOnce)
	}
	return b
}

func (q *qcow2) l2Tables() []byte {
	b := make([]byte, q.l2Count*qcowCluster)
	for k, r := range q.data {
		for c := range r.count {
			guest := r.at + c
			at := q.tables[guest/qcowL2]*qcowCluster + guest%qcowL2*8
			be.PutUint64(b[at:], uint64((q.host[k]+c)*qcowCluster)|usedOnce)
		}
	}
	return b
}

// align rounds n up to a multiple of to.
func align(n, to int64) int64 { return ceil(n, to) * to }
