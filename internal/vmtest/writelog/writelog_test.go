package writelog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"testing"
)

// entry is one of a log that a test makes.
type entry struct {
	first, flags uint64
	data         string // a letter for each sector
	mark         string
}

const sector = 512

// encode writes a log as dm-log-writes does.
func encode(entries ...entry) []byte {
	le := binary.LittleEndian
	b := make([]byte, sector)
	le.PutUint64(b, magic)
	le.PutUint64(b[8:], version)
	le.PutUint64(b[16:], uint64(len(entries)))
	le.PutUint32(b[24:], sector)
	for _, e := range entries {
		h := make([]byte, sector)
		le.PutUint64(h, e.first)
		le.PutUint64(h[8:], uint64(len(e.data)))
		le.PutUint64(h[16:], e.flags)
		le.PutUint64(h[24:], uint64(len(e.mark)))
		b = append(b, h...)
		if e.flags&flagMark != 0 {
			b = append(b, make([]byte, sector)...)
		} else if e.flags&flagDiscard == 0 {
			for _, c := range []byte(e.data) {
				b = append(b, bytes.Repeat([]byte{c}, sector)...)
			}
		}
	}
	return b
}

type memory []byte

func (m memory) WriteAt(p []byte, at int64) (int, error) { return copy(m[at:], p), nil }

// show gives a letter for each sector.
func (m memory) show() string {
	var s []byte
	for i := 0; i < len(m); i += sector {
		s = append(s, m[i])
	}
	return string(s)
}

func disk() memory { return bytes.Repeat([]byte("-"), 6*sector) }

var sample = []entry{
	{first: 0, data: "ab"},
	{first: 4, data: "c"},
	{flags: flagFlush},
	{flags: flagFlush},
	{flags: flagMark, mark: "here"},
	{first: 1, data: "d"},
	{first: 0, data: "xx", flags: flagDiscard},
	{first: 2, data: "e", flags: flagFUA},
	{first: 5, data: "f", flags: flagFlush},
}

func TestReplay(t *testing.T) {
	b := encode(sample...)
	l, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := Entries(bytes.NewReader(b)); n != len(sample) || len(l.Ops) != n || err != nil {
		t.Fatalf("%d entries, %d operations, %v", n, len(l.Ops), err)
	}
	intervals := l.Intervals(0, len(l.Ops))
	if want := []Interval{{0, 2}, {2, 8}, {8, 9}, {9, 9}}; !reflect.DeepEqual(intervals, want) {
		t.Fatalf("intervals %v, want %v", intervals, want)
	}
	d := disk()
	var states []string
	for _, v := range intervals {
		states = append(states, d.show())
		if err := l.Apply(d, v.From, v.To); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"------", "ab--c-", "ade-c-", "ade-cf"}; !slices.Equal(states, want) {
		t.Errorf("states %q, want %q", states, want)
	}
}

// A subset is one, leaves the order, and gives way to the whole.
func TestSubset(t *testing.T) {
	b := encode(sample...)
	l, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for seed := range uint64(40) {
		v := Interval{0, 2}
		some := l.Subset(v, seed)
		if !slices.Equal(some, l.Subset(v, seed)) {
			t.Fatal("a seed gives two subsets")
		}
		d := disk()
		if err := l.ApplyIndices(d, some); err != nil {
			t.Fatal(err)
		}
		seen[d.show()] = true
		if err := l.Apply(d, v.From, v.To); err != nil || d.show() != "ab--c-" {
			t.Fatalf("the whole over a subset: %q, %v", d.show(), err)
		}
	}
	if want := map[string]bool{"ab----": true, "----c-": true}; !reflect.DeepEqual(seen, want) {
		t.Errorf("subsets %v, want %v", seen, want)
	}
	if s := l.Subset(Interval{8, 9}, 1); s != nil {
		t.Errorf("one write has no subset of interest, got %v", s)
	}
}

func TestReadRejects(t *testing.T) {
	good := encode(sample...)
	change := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	for name, b := range map[string][]byte{
		"empty":          nil,
		"short":          good[:20],
		"magic":          change(0, 0),
		"version":        change(8, 2),
		"sector size":    change(25, 3),
		"entry count":    change(23, 0xff),
		"more entries":   change(16, 100),
		"flags":          change(sector+16, 0x10),
		"sectors":        change(sector+8+2, 1),
		"far away":       change(sector+7, 1),
		"truncated data": good[:2*sector+1],
		"truncated":      good[:len(good)-1],
	} {
		if _, err := Read(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Whatever the bytes are: an error, or a log whose parts can all be read.
func FuzzRead(f *testing.F) {
	f.Add(encode())
	f.Add(encode(sample...))
	f.Add(encode(sample...)[:3*sector])
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, o := range l.Ops {
			if d, err := l.Data(o); err != nil || !o.Discard && int64(len(d)) != o.Size {
				t.Fatalf("operation %+v: %d bytes, %v", o, len(d), err)
			}
		}
		last := 0
		for _, v := range l.Intervals(0, len(l.Ops)) {
			if v.From != last || v.To < v.From {
				// A flush that follows a flush belongs to the interval after it.
				t.Fatalf("interval %v after %d", v, last)
			}
			last = v.To
			l.Subset(v, 1)
		}
	})
}
