package writelog

import (
	"fmt"
	"io"
	"math/rand/v2"
)

// Interval is a part of a log between two moments at which the disk promised that all is durable:
// when the power goes in it, what was written before From is on the disk, and each of the
// writes from From up to To may be.
type Interval struct{ From, To int } // indices of Ops

// Intervals divides the operations from one index up to another at their flushes. A write that is
// durable by itself ends an interval too: the others of that interval still may be missing, which
// Intervals does not show. No interval is empty but the last, which stands for the end.
func (l *Log) Intervals(from, to int) []Interval {
	var all []Interval
	begin, writes := from, false
	for i := from; i < to; i++ {
		o := l.Ops[i]
		// A flush comes before the data of its own entry.
		if o.Flush && writes {
			all = append(all, Interval{begin, i})
			begin, writes = i, false
		}
		writes = writes || o.writes()
		if o.FUA && o.writes() {
			all = append(all, Interval{begin, i + 1})
			begin, writes = i+1, false
		}
	}
	if writes {
		all = append(all, Interval{begin, to})
		begin = to
	}
	return append(all, Interval{begin, begin})
}

// Apply does the operations from one index up to another, in their order.
func (l *Log) Apply(disk io.WriterAt, from, to int) error {
	for i := from; i < to; i++ {
		if err := l.apply(disk, i); err != nil {
			return err
		}
	}
	return nil
}

// ApplyIndices does the operations with these indices, in the order given.
func (l *Log) ApplyIndices(disk io.WriterAt, indices []int) error {
	for _, i := range indices {
		if err := l.apply(disk, i); err != nil {
			return err
		}
	}
	return nil
}

// A discard changes nothing: a disk may do so, and what was discarded must not be needed.
func (l *Log) apply(disk io.WriterAt, i int) error {
	o := l.Ops[i]
	if !o.writes() || o.Discard {
		return nil
	}
	b, err := l.Data(o)
	if err != nil {
		return err
	}
	if _, err := disk.WriteAt(b, o.Offset); err != nil {
		return fmt.Errorf("replay operation %d: %w", i, err)
	}
	return nil
}

// Subset returns about half of the writes of an interval, never none or all of them where it
// has two or more: what a disk with a cache may have written when the power goes. Equal seeds
// give equal subsets.
func (l *Log) Subset(v Interval, seed uint64) []int {
	var writes []int
	for i := v.From; i < v.To; i++ {
		if l.Ops[i].writes() && !l.Ops[i].Discard {
			writes = append(writes, i)
		}
	}
	if len(writes) < 2 {
		return nil
	}
	r := rand.New(rand.NewPCG(seed, uint64(v.From)))
	var some []int
	for _, i := range writes {
		if r.IntN(2) == 0 {
			some = append(some, i)
		}
	}
	switch len(some) {
	case 0:
		some = writes[len(writes)-1:]
	case len(writes):
		some = some[1:]
	}
	return some
}
