// Package blocks fetches a layer's blob of which most is here already: its dm-verity tree is the list of its blocks,
// and the trees of the blobs that are here say which of them they have.
//
//	┌──────── data ────────┬─ tree ─┐  1. the tree, by one range; compared with the root hash
//	│ ▒▒▒ ░░ ▒▒▒▒▒▒ ░ ▒▒▒▒ │        │  2. ▒ is in a blob that is here: read, and compared with its digest
//	└──────────────────────┴────────┘  3. ░ is fetched by ranges, with small gaps in between
//
// Every block is compared with its digest before it is written, wherever it comes from, and the blob with its root
// hash at the end: whoever serves it can make it fail, and not make it wrong.
package blocks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// Remote reads a part of the new blob.
type Remote func(ctx context.Context, off, n int64) (io.ReadCloser, error)

// Local is a blob that is here.
type Local struct {
	Layer layout.Layer
	io.ReaderAt
}

// Stats says where a blob came from, in bytes.
type Stats struct {
	Fetched  int64 // over the network, the tree and the gaps between ranges included
	Reused   int64 // data that was here
	Written  int64 // data
	Ranges   int64 // of data that were fetched
	Requests int64
}

// Add adds another blob's.
func (s *Stats) Add(o Stats) {
	s.Fetched += o.Fetched
	s.Reused += o.Reused
	s.Written += o.Written
	s.Ranges += o.Ranges
	s.Requests += o.Requests
}

// Joining says how blocks that are missing become ranges that are asked for, in bytes; each is a multiple of 4096.
type Joining struct {
	Gap     int64 // up to which blocks that are here are fetched with those around them: less than a request costs
	Longest int64 // range: what a broken connection costs, and what several workers share
	Align   int64 // ranges begin and end at its multiples, the last one at the blob's end; 0: where the blocks do
}

// Range is a part of a blob, in bytes.
type Range struct{ Off, N int64 }

// Joined is how [Plan.Write] asks. docs/scale.md has the numbers that it was chosen by.
func Joined() Joining { return Joining{Gap: 8 * block, Longest: 1024 * block} }

const (
	block = verity.BlockSize
	// Workers fetch at the same time.
	Workers  = 4
	attempts = 4
	// maxSize bounds a layer in bytes: of one as large, the digests take 2 GiB of memory.
	maxSize = 256 << 30
)

// DamagedError says that a part of a blob came with other bytes than its tree says, each time.
type DamagedError struct{ Off int64 }

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the registry's bytes at %d are not those of the layer: they were changed or damaged", e.Off)
}

// Plan is what it takes to have a blob.
type Plan struct {
	layer  layout.Layer
	tree   []byte // all that is behind the data
	leaves []byte
	from   []place // of each block
	locals []Local
	stats  Stats
}

// place is where a block is here: a blob's number and its block, or none below 0.
type place struct{ blob, block int32 }

// begun is the blob's number of what an interrupted run has written.
const begun = math.MaxInt32

// Begun is a writer that can tell what an interrupted run has written to it: anything.
type Begun interface {
	io.WriterAt
	io.ReaderAt
	// Keep is WriteAt for what is there already.
	Keep(p []byte, off int64) error
}

// Knowing is a writer that takes a blob's tree before its data.
type Knowing interface {
	Know(tree []byte, layer layout.Layer) error
}

// Resume has the plan count the blocks that an interrupted run has written to a file. [Plan.Write] finds them itself.
func (p *Plan) Resume(file io.ReaderAt) { _ = p.resume(file, nil) }

func (p *Plan) resume(file io.ReaderAt, keep func(p []byte, off int64) error) error {
	buf := make([]byte, block)
	for i := range int32(len(p.from)) {
		if n, _ := file.ReadAt(buf, int64(i)*block); n < block {
			return nil
		}
		if !verity.Matches(buf, p.leaf(i)) {
			continue
		}
		p.from[i] = place{begun, i}
		if keep != nil {
			if err := keep(buf, int64(i)*block); err != nil {
				return err
			}
			p.stats.Reused += block
		}
	}
	return nil
}

// Look reads the new blob's tree, and finds its blocks in what is here.
func Look(ctx context.Context, layer layout.Layer, remote Remote, locals []Local) (*Plan, error) {
	if layer.Size > maxSize {
		return nil, Final{Err: fmt.Errorf("the layer has %d bytes, more than %d", layer.Size, maxSize)}
	}
	p := &Plan{layer: layer, locals: locals}
	tree := make([]byte, verity.TotalSize(layer.Size)-layer.Size)
	err := p.retry(ctx, func() error {
		err := p.read(ctx, remote, layer.Size, tree)
		if err != nil {
			return err
		}
		p.leaves, err = verity.Leaves(tree, layer.Size, layer.RootHash)
		return err
	})
	p.tree = tree
	if err != nil {
		return nil, err
	}
	p.find()
	return p, nil
}

func (p *Plan) leaf(i int32) []byte {
	return p.leaves[int64(i)*verity.DigestSize : (int64(i)+1)*verity.DigestSize]
}

// find looks each block up in the trees of the local blobs: their leaves are read one tree after the other.
func (p *Plan) find() {
	n := int32(len(p.leaves) / verity.DigestSize)
	p.from = make([]place, n)
	order := make([]int32, n)
	for i := range n {
		p.from[i], order[i] = place{-1, -1}, i
	}
	sort.Slice(order, func(a, b int) bool { return bytes.Compare(p.leaf(order[a]), p.leaf(order[b])) < 0 })
	for b, l := range p.locals {
		// What a tree says before its damage is found is no help, and does no harm: each block is compared.
		_ = verity.EachLeaf(l, l.Layer.Size, l.Layer.RootHash, func(block int64, leaf []byte) {
			at := sort.Search(int(n), func(k int) bool { return bytes.Compare(p.leaf(order[k]), leaf) >= 0 })
			for ; at < int(n) && bytes.Equal(p.leaf(order[at]), leaf); at++ {
				if p.from[order[at]].blob < 0 {
					p.from[order[at]] = place{int32(b), int32(block)}
				}
			}
		})
	}
}

// Cost returns what [Plan.Write] will say if nothing has to be asked for twice and nothing here has rotted.
func (p *Plan) Cost() Stats {
	s := Stats{Fetched: int64(len(p.tree)), Written: p.layer.Size, Requests: 1}
	for _, r := range p.Ranges(Joined()) {
		s.Fetched += r.N
		s.Ranges++
		s.Requests++
	}
	for _, at := range p.from {
		if at.blob >= 0 {
			s.Reused += block
		}
	}
	return s
}

// Local is the blob as one that is here, of which there is only the tree: for plans of what comes after it, none of
// which is written.
func (p *Plan) Local() Local {
	return Local{Layer: p.layer, ReaderAt: verity.TreeAt(p.tree, p.layer.Size)}
}

// Ranges are the runs of blocks that are not here, joined over small gaps, and none too long.
func (p *Plan) Ranges(j Joining) (all []Range) {
	end := int64(len(p.from)) * block
	for i, at := range p.from {
		if at.blob >= 0 {
			continue
		}
		first, next := int64(i)*block, int64(i+1)*block
		if j.Align > 0 {
			first, next = first/j.Align*j.Align, min((first/j.Align+1)*j.Align, end)
		}
		if k := len(all) - 1; k >= 0 {
			last := all[k].Off + all[k].N
			if first < last {
				continue // what it lies in is fetched already
			}
			if first-last <= j.Gap && next-all[k].Off <= j.Longest {
				all[k].N = next - all[k].Off
				continue
			}
		}
		all = append(all, Range{first, next - first})
	}
	return all
}

// Write gives each block of the blob to w once: from here, and the rest from the remote. What w has already, if it is
// a [Begun], is not written again.
func (p *Plan) Write(ctx context.Context, remote Remote, w io.WriterAt, progress func(done int64)) (Stats, error) {
	for i, at := range p.from {
		if at.blob == begun {
			p.from[i] = place{-1, -1}
		}
	}
	if k, ok := w.(Knowing); ok {
		if err := k.Know(p.tree, p.layer); err != nil {
			return p.stats, err
		}
	}
	if b, ok := w.(Begun); ok {
		if err := p.resume(b, b.Keep); err != nil {
			return p.stats, err
		}
	}
	if err := p.reuse(ctx, w); err != nil {
		return p.stats, err
	}
	p.stats.Written = p.layer.Size
	ranges := p.Ranges(Joined())
	p.stats.Ranges = int64(len(ranges))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(Workers)
	var mu sync.Mutex
	buffers := sync.Pool{New: func() any { return new([]byte) }}
	for _, r := range ranges {
		g.Go(func() error {
			buf := buffers.Get().(*[]byte)
			defer buffers.Put(buf)
			if int64(cap(*buf)) < r.N {
				*buf = make([]byte, r.N)
			}
			data := (*buf)[:r.N]
			err := p.retry(ctx, func() error {
				if err := p.read(ctx, remote, r.Off, data); err != nil {
					return err
				}
				return p.check(r, data)
			})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if err := p.put(w, r, data, func(at place) bool { return at.blob < 0 }); err != nil {
				return err
			}
			if progress != nil {
				progress(atomic.LoadInt64(&p.stats.Fetched))
			}
			return nil
		})
	}
	err := g.Wait()
	return p.stats, err
}

// atOnce is how many blocks that lie one behind the other here are copied at once.
const atOnce = 64

// reuse writes the blocks that are here. Those that have rotted have no place any more.
func (p *Plan) reuse(ctx context.Context, w io.WriterAt) error {
	buf := make([]byte, atOnce*block)
	for i := int32(0); int(i) < len(p.from); {
		at := p.from[i]
		if at.blob < 0 || at.blob == begun {
			i++
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		n := int32(1)
		for n < atOnce && int(i+n) < len(p.from) && p.from[i+n] == (place{at.blob, at.block + n}) {
			n++
		}
		got, _ := p.locals[at.blob].ReadAt(buf[:int64(n)*block], int64(at.block)*block)
		for k := range n {
			from, to := int64(k)*block, int64(k+1)*block
			if to > int64(got) || !verity.Matches(buf[from:to], p.leaf(i+k)) {
				p.from[i+k] = place{-1, -1}
			}
		}
		r := Range{int64(i) * block, int64(n) * block}
		if err := p.put(w, r, buf, func(at place) bool { return at.blob >= 0 }); err != nil {
			return err
		}
		for k := range n {
			if p.from[i+k].blob >= 0 {
				p.stats.Reused += block
			}
		}
		i += n
	}
	return nil
}

// check compares fetched blocks with their digests.
func (p *Plan) check(r Range, data []byte) error {
	for off := int64(0); off < r.N; off += block {
		if !verity.Matches(data[off:off+block], p.leaf(int32((r.Off+off)/block))) {
			return &DamagedError{r.Off + off}
		}
	}
	return nil
}

// put writes those of a range's blocks whose place is wanted, and those beside one another at once.
func (p *Plan) put(w io.WriterAt, r Range, data []byte, wanted func(place) bool) error {
	first, n := r.Off/block, r.N/block
	for i := int64(0); i < n; {
		j := i
		for j < n && wanted(p.from[first+j]) == wanted(p.from[first+i]) {
			j++
		}
		if wanted(p.from[first+i]) {
			if _, err := w.WriteAt(data[i*block:j*block], (first+i)*block); err != nil {
				return err
			}
		}
		i = j
	}
	return nil
}

// read fills data with a part of the blob.
func (p *Plan) read(ctx context.Context, remote Remote, off int64, data []byte) error {
	atomic.AddInt64(&p.stats.Requests, 1)
	body, err := remote(ctx, off, int64(len(data)))
	if err != nil {
		return err
	}
	defer body.Close()
	got, err := io.ReadFull(body, data)
	atomic.AddInt64(&p.stats.Fetched, int64(got))
	if err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", len(data), off, err)
	}
	return nil
}

// Final is an error that another attempt does not mend.
type Final struct{ Err error }

func (f Final) Error() string { return f.Err.Error() }

// Unwrap returns it.
func (f Final) Unwrap() error { return f.Err }

func (p *Plan) retry(ctx context.Context, do func() error) (err error) {
	for n := range attempts {
		if n > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Duration(n*n) * 100 * time.Millisecond):
			}
		}
		err = do()
		var final Final
		if err == nil || ctx.Err() != nil || errors.As(err, &final) {
			return err
		}
	}
	return err
}
