package disk

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"sync"
)

// OpenQCOW2 reads a QEMU disk, version 2 or 3: what the disk holds, and its size in bytes. Clusters may be compressed
// by deflate. A disk with a backing file, an external data file or encryption is refused. It may be read concurrently.
//
// QEMU, docs/interop/qcow2.txt.
func OpenQCOW2(r io.ReaderAt) (io.ReaderAt, int64, error) {
	q, err := openQCOW2(r)
	if err != nil {
		return nil, 0, fmt.Errorf("qcow2: %w", err)
	}
	return q, q.size, nil
}

const (
	qcowMagic      = "QFI\xfb"
	qcowZero       = 1       // in an L2 entry: the cluster reads as zeros
	qcowCompressed = 1 << 62 // in an L2 entry
	qcowOffset     = 0x00fffffffffffe00
	qcowMaxL1      = 32 << 20 // bytes, as in QEMU
	qcowMaxSize    = 1 << 56
)

// qcow2Disk is a QEMU disk that is read.
type qcow2Disk struct {
	r      io.ReaderAt
	size   int64
	bits   int // of a cluster
	l1     []uint64
	mu     sync.Mutex
	tables map[uint64][]byte // L2 tables that were read, by their place
	last   uint64            // the compressed cluster that was read last, by its L2 entry
	plain  []byte
}

func openQCOW2(r io.ReaderAt) (*qcow2Disk, error) {
	b := make([]byte, 104)
	if n, err := r.ReadAt(b, 0); n < 72 {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	version := be.Uint32(b[4:])
	if string(b[:4]) != qcowMagic || version != 2 && version != 3 {
		return nil, errors.New("not a QEMU disk of version 2 or 3")
	}
	q := &qcow2Disk{r: r, bits: int(be.Uint32(b[20:])), size: int64(be.Uint64(b[24:])), tables: map[uint64][]byte{}}
	if q.bits < 9 || q.bits > 21 || q.size < 0 || q.size > qcowMaxSize {
		return nil, fmt.Errorf("clusters of 2^%d bytes, %d bytes in all", q.bits, q.size)
	}
	switch {
	case be.Uint64(b[8:]) != 0:
		return nil, errors.New("it is the difference to another file: make one of both with `qemu-img convert`")
	case be.Uint32(b[32:]) != 0:
		return nil, errors.New("it is encrypted: decrypt it with `qemu-img convert`")
	}
	if version == 3 {
		// Bits 0 and 1 say that it was not closed; what it holds is as it is. The others change the format.
		if f := be.Uint64(b[72:]); f&^3 != 0 {
			return nil, fmt.Errorf(
				"it has features that are not known here (%#x): convert it with `qemu-img convert -O qcow2`",
				f,
			)
		}
	}
	entries := int64(be.Uint32(b[36:]))
	if need := ceil(ceil(q.size, 1<<q.bits), 1<<(q.bits-3)); entries < need || entries*8 > qcowMaxL1 {
		return nil, fmt.Errorf("an L1 table of %d entries", entries)
	}
	table := make([]byte, entries*8)
	if _, err := r.ReadAt(table, int64(be.Uint64(b[40:])&qcowOffset)); err != nil {
		return nil, fmt.Errorf("read the L1 table: %w", err)
	}
	for i := range entries {
		q.l1 = append(q.l1, be.Uint64(table[i*8:]))
	}
	return q, nil
}

// ReadAt implements [io.ReaderAt].
func (q *qcow2Disk) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("qcow2: negative offset")
	}
	for n < len(b) {
		if off >= q.size {
			return n, io.EOF
		}
		in := off & (1<<q.bits - 1)
		some := b[n : n+int(min(int64(len(b)-n), 1<<q.bits-in, q.size-off))]
		if err := q.readCluster(some, off>>q.bits, in); err != nil {
			return n, fmt.Errorf("qcow2: read at %d: %w", off, err)
		}
		n, off = n+len(some), off+int64(len(some))
	}
	return n, nil
}

// readCluster reads a part of one cluster of the disk.
func (q *qcow2Disk) readCluster(b []byte, cluster, in int64) error {
	e, err := q.entry(cluster)
	if err != nil {
		return err
	}
	switch {
	case e&qcowCompressed != 0:
		return q.readCompressed(b, e, in)
	case e&qcowZero != 0 || e&qcowOffset == 0:
		clear(b)
		return nil
	}
	return readFull(q.r, b, int64(e&qcowOffset)+in)
}

// entry returns a cluster's entry of its L2 table, 0 where there is none.
func (q *qcow2Disk) entry(cluster int64) (uint64, error) {
	perTable := int64(1) << (q.bits - 3)
	if cluster/perTable >= int64(len(q.l1)) {
		return 0, nil
	}
	at := q.l1[cluster/perTable] & qcowOffset
	if at == 0 {
		return 0, nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	table, ok := q.tables[at]
	if !ok {
		table = make([]byte, 1<<q.bits)
		if err := readFull(q.r, table, int64(at)); err != nil {
			return 0, fmt.Errorf("L2 table: %w", err)
		}
		if len(q.tables)<<q.bits >= 4<<20 {
			clear(q.tables)
		}
		q.tables[at] = table
	}
	return be.Uint64(table[cluster%perTable*8:]), nil
}

// readCompressed reads a part of a compressed cluster, which is kept for the next part.
func (q *qcow2Disk) readCompressed(b []byte, e uint64, in int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.last != e {
		x := 62 - (q.bits - 8) // bits of the offset; above them: how many sectors of 512 bytes follow its own
		at := int64(e & (1<<x - 1))
		size := (int64(e&(qcowCompressed-1)>>x)+1)*512 - at%512
		plain := make([]byte, 1<<q.bits)
		if _, err := io.ReadFull(flate.NewReader(io.NewSectionReader(q.r, at, size)), plain); err != nil {
			return fmt.Errorf("compressed cluster: %w", err)
		}
		q.last, q.plain = e, plain
	}
	copy(b, q.plain[in:])
	return nil
}

// readFull reads all of b. What a file lacks at its end is an error that says so.
func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// isQCOW2 says whether a file is a QEMU disk.
func isQCOW2(r io.ReaderAt) bool {
	b := make([]byte, 4)
	return readFull(r, b, 0) == nil && bytes.Equal(b, []byte(qcowMagic))
}
