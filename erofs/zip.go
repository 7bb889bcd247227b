package erofs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"sync"
)

// zipStore stores files compressed. Its parts run at the same time:
//
//	the caller:  archive ─▶ chunks, in order ─┬─▶ workers: hash, compress
//	the writer:  image   ◀─ chunks, in order ◀┘
//
// A large file is cut into chunks, each of which becomes a pcluster: whole blocks, the
// compressed data at their end. Small files are gathered in the packed inode, as many in
// one chunk as fit; each lies in one chunk. The order, and with it every address,
// depends on the archive alone.
type zipStore struct {
	out      *blocks
	codec    codec
	fail     context.CancelCauseFunc
	free     chan *chunk // not in use
	work     chan *chunk // to compress
	inOrder  chan *chunk // all, as they came
	workers  sync.WaitGroup
	written  chan struct{}
	inlined  int
	seenFile map[[sha256.Size]byte]int64 // small files: offset in the packed inode

	packed     *chunk // being filled
	packedData *fileData
	packedSize int64 // without what is being filled

	mu        sync.Mutex
	seenChunk map[[sha256.Size]byte]extent // chunks: where they are
}

// extent is where a run of a file's bytes is stored. It begins at a multiple of the
// block size in the file.
type extent struct {
	block  uint32 // first
	length uint32 // bytes of the file
	blocks uint16 // 0: a hole
	plain  bool   // not compressed
}

// chunk is a part of a file on its way.
type chunk struct {
	data *fileData // that it is a part of
	in   []byte
	out  []byte // compressed; empty where that does not save a block
	raw  bool   // of a sparse file: neither compressed nor shared, left out when zero
	asIs bool   // not to be compressed
	sum  [sha256.Size]byte
	done chan struct{}
}

// maxTiny is the size of files that are kept with their inode: where a block of the
// packed inode must be read and decompressed first, they cost more than they save.
const maxTiny = 128

// newZipStore starts the workers; finish ends them. fail is called with the first error
// of the writer.
func newZipStore(out *blocks, c codec, workers int, fail context.CancelCauseFunc) *zipStore {
	depth := 2*workers + 2
	s := &zipStore{
		out: out, codec: c, fail: fail, written: make(chan struct{}),
		free: make(chan *chunk, depth), work: make(chan *chunk, depth), inOrder: make(chan *chunk, depth),
		seenFile: map[[sha256.Size]byte]int64{}, seenChunk: map[[sha256.Size]byte]extent{},
		packedData: &fileData{kind: inExtents, algorithm: c.algorithm},
	}
	for range depth {
		s.free <- &chunk{done: make(chan struct{}, 1)}
	}
	for range workers {
		s.workers.Go(s.compress)
	}
	go s.write()
	return s
}

func (s *zipStore) store(ctx context.Context, r io.Reader, size int64, sparse bool, room int) (*fileData, error) {
	switch {
	case size <= min(maxTiny, int64(room)) && s.inlined+int(size) <= inlineBudget:
		s.inlined += int(size)
		d := &fileData{kind: inBlocks, tail: make([]byte, size)}
		_, err := io.ReadFull(r, d.tail)
		return d, err
	case sparse && size <= maxChunks<<minChunkBits:
		d := &fileData{kind: inChunks, chunkBits: minChunkBits}
		return d, s.cut(ctx, r, d, size, 1<<minChunkBits, 1<<minChunkBits)
	case size < int64(s.codec.small):
		return s.pack(r, int(size))
	}
	d := &fileData{kind: inExtents, algorithm: s.codec.algorithm}
	return d, s.cut(ctx, r, d, size, s.codec.chunk, s.codec.most)
}

// executable begins the programs of UEFI and DOS: kernels, unified kernel images, boot loaders. They are kept as they
// are: what there is to gain in them, they have compressed themselves, and in one piece they can be shared with a file
// system that firmware reads.
var executable = []byte("MZ")

// cut sends a file off in chunks of n bytes, the last of which has up to most.
func (s *zipStore) cut(ctx context.Context, r io.Reader, d *fileData, size int64, n, most int) error {
	asIs := false
	for first := true; size > 0; first = false {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if size <= int64(most) {
			n = int(size)
		}
		c := s.take(d, n)
		c.raw = d.kind == inChunks
		if _, err := io.ReadFull(r, c.in); err != nil {
			s.free <- c
			return err
		}
		if first {
			asIs = bytes.HasPrefix(c.in, executable)
		}
		c.asIs = asIs
		s.send(c)
		size -= int64(n)
	}
	return nil
}

// pack adds a file to the packed inode, unless it is there already.
func (s *zipStore) pack(r io.Reader, size int) (*fileData, error) {
	if s.packed != nil && len(s.packed.in)+size > s.codec.chunk {
		s.sendPacked()
	}
	if s.packed == nil {
		s.packed = s.take(s.packedData, 0)
	}
	at := len(s.packed.in)
	s.packed.in = s.packed.in[:at+size]
	content := s.packed.in[at:]
	if _, err := io.ReadFull(r, content); err != nil {
		return nil, err
	}
	d := &fileData{kind: inPacked, packedAt: s.packedSize + int64(at)}
	sum := sha256.Sum256(content)
	if offset, ok := s.seenFile[sum]; ok {
		d.packedAt = offset
		s.packed.in = s.packed.in[:at]
	} else {
		s.seenFile[sum] = d.packedAt
	}
	return d, nil
}

// sendPacked closes the chunk of the packed inode. The next begins at a whole block, so
// that no page of it needs two chunks.
func (s *zipStore) sendPacked() {
	c := s.packed
	n := len(c.in)
	c.in = c.in[:roundUp(int64(n), blockSize)]
	clear(c.in[n:])
	s.packedSize += int64(len(c.in))
	s.packed = nil
	s.send(c)
}

// take returns a chunk of n bytes.
func (s *zipStore) take(d *fileData, n int) *chunk {
	c := <-s.free
	if c.in == nil {
		c.in = make([]byte, s.codec.most)
	}
	c.data, c.in, c.raw, c.asIs = d, c.in[:n], false, false
	return c
}

func (s *zipStore) send(c *chunk) {
	s.inOrder <- c
	s.work <- c
}

// finish waits until everything is written. With ok, what was gathered for the packed
// inode is written, too. Then it returns that inode's content and size.
func (s *zipStore) finish(ok bool) (*fileData, int64) {
	if s.packed != nil && ok {
		s.sendPacked()
	}
	close(s.work)
	close(s.inOrder)
	s.workers.Wait()
	<-s.written
	return s.packedData, s.packedSize
}

// compress is a worker.
func (s *zipStore) compress() {
	z := s.codec.new()
	for c := range s.work {
		c.out = c.out[:0]
		if !c.raw {
			if s.shared(c) {
				c.sum = sha256.Sum256(c.in)
			}
			// If it is not written now, it may be by the time that it would be.
			if _, written := s.find(c); !written && !c.asIs && !looksRandom(c.in) {
				c.out = z.compress(c.out, c.in)
			}
			if blocksOf(len(c.out)) >= blocksOf(len(c.in)) {
				c.out = c.out[:0]
			}
		}
		c.done <- struct{}{}
	}
}

// shared says whether a chunk may occur again. Those of the packed inode do not: the files
// in them are all different, and have been hashed one by one.
func (s *zipStore) shared(c *chunk) bool { return c.data != s.packedData }

// find returns where a chunk is that is written already.
func (s *zipStore) find(c *chunk) (extent, bool) {
	if !s.shared(c) {
		return extent{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.seenChunk[c.sum]
	return e, ok
}

// keep notes where a chunk has been written.
func (s *zipStore) keep(c *chunk, e extent) {
	if !s.shared(c) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seenChunk[c.sum] = e
}

// write is the writer.
func (s *zipStore) write() {
	defer close(s.written)
	var failed bool
	for c := range s.inOrder {
		<-c.done
		if !failed {
			if err := s.writeChunk(c); err != nil {
				failed = true
				s.fail(err)
			}
		}
		s.free <- c
	}
}

func (s *zipStore) writeChunk(c *chunk) error {
	if c.raw {
		block := uint32(noBlock)
		if !isZero(c.in) {
			block = s.out.next()
			if _, err := s.out.Write(c.in); err != nil {
				return err
			}
			s.out.pad()
		}
		c.data.chunks = append(c.data.chunks, block)
		return nil
	}
	e, written := s.find(c)
	if !written {
		e = extent{block: s.out.next(), length: uint32(len(c.in)), plain: len(c.out) == 0}
		b := c.out
		if e.plain {
			b = c.in
		}
		e.blocks = uint16(blocksOf(len(b)))
		if err := s.writePcluster(b, e.plain); err != nil {
			return err
		}
		s.keep(c, e)
	}
	c.data.extents = append(c.data.extents, e)
	return nil
}

// writePcluster writes whole blocks: compressed data at their end, plain data at their
// start.
func (s *zipStore) writePcluster(b []byte, plain bool) error {
	if pad := int(roundUp(int64(len(b)), blockSize)) - len(b); !plain && pad > 0 {
		if _, err := s.out.Write(zeroBlock[:pad]); err != nil {
			return err
		}
	}
	_, err := s.out.Write(b)
	s.out.pad()
	return err
}

func blocksOf(n int) int { return (n + blockSize - 1) >> blockBits }
