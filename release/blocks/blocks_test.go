package blocks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if n := int(off) + len(p); n > len(m.b) {
		m.b = append(m.b, make([]byte, n-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

// blob makes a blob of data.
func blob(t testing.TB, data []byte) ([]byte, layout.Layer) {
	t.Helper()
	m := &memory{}
	w := verity.NewWriter(m)
	if _, err := w.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	root, _, err := w.Finish(int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return m.b, layout.Layer{DiffID: "sha256:x", Size: int64(len(data)), RootHash: root}
}

func noise(seed byte, blocks int) []byte {
	b := make([]byte, blocks*block)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// from serves a blob, and lets change look at each answer.
func from(b []byte, change func(n int, off int64, p []byte) (io.Reader, error)) Remote {
	var asked atomic.Int64
	return func(_ context.Context, off, n int64) (io.ReadCloser, error) {
		p := bytes.Clone(b[off : off+n])
		nth := int(asked.Add(1))
		if change == nil {
			return io.NopCloser(bytes.NewReader(p)), nil
		}
		r, err := change(nth, off, p)
		return io.NopCloser(r), err
	}
}

func get(t testing.TB, l layout.Layer, r Remote, locals ...Local) ([]byte, Stats, error) {
	t.Helper()
	p, err := Look(t.Context(), l, r, locals)
	if err != nil {
		return nil, Stats{}, err
	}
	m := &memory{}
	w := verity.NewWriter(m)
	stats, err := p.Write(t.Context(), r, w, nil)
	if err != nil {
		return nil, stats, err
	}
	root, _, err := w.Finish(l.Size)
	if err != nil {
		return nil, stats, err
	}
	if root != l.RootHash {
		return nil, stats, errors.New("another root hash")
	}
	return m.b, stats, nil
}

// Blocks that are here, wherever they moved to, are not fetched.
func TestBlocksThatAreHere(t *testing.T) {
	old := noise(1, 1000)
	data := append(bytes.Clone(old[500*block:]), noise(2, 30)...)
	data = append(data, old[:500*block]...)
	data = append(data, old[7*block:8*block]...) // once more
	want, l := blob(t, data)
	have, layer := blob(t, old)
	damaged := bytes.Clone(have)
	damaged[600*block+5] ^= 1 // a block that has rotted is fetched
	torn := bytes.Clone(have)
	torn[len(torn)-1] ^= 1 // and a damaged tree is no help
	for name, c := range map[string]struct {
		locals []Local
		blocks int64
	}{
		"here":         {[]Local{{layer, bytes.NewReader(have)}}, 30},
		"damaged":      {[]Local{{layer, bytes.NewReader(damaged)}}, 31},
		"damaged tree": {[]Local{{layer, bytes.NewReader(torn)}, {layer, bytes.NewReader(have)}}, 30},
		"nothing":      {nil, 1031},
	} {
		got, stats, err := get(t, l, from(want, nil), c.locals...)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", name, err)
		}
		tree := int64(len(want)) - l.Size
		if stats.Fetched != tree+c.blocks*block || stats.Reused != l.Size-c.blocks*block || stats.Written != l.Size {
			t.Errorf("%s: %+v, want %d blocks", name, stats, c.blocks)
		}
	}
}

// Small gaps are fetched with what is around them, and written from here once.
func TestRangesAreJoined(t *testing.T) {
	old := noise(1, 400)
	data := bytes.Clone(old)
	for _, i := range []int{10, 18, 100, 300} { // 10 and 18 have 7 blocks between them
		copy(data[i*block:], noise(byte(i), 1))
	}
	want, l := blob(t, data)
	have, layer := blob(t, old)
	got, stats, err := get(t, l, from(want, nil), Local{layer, bytes.NewReader(have)})
	if err != nil || !bytes.Equal(got, want) || stats.Ranges != 3 || stats.Requests != 4 {
		t.Errorf("%v, %+v", err, stats)
	}
}

// What is asked for has all that is missing once, joined as it is said.
func TestJoining(t *testing.T) {
	old := noise(1, 1000)
	data := bytes.Clone(old)
	for _, i := range []int{0, 3, 20, 255, 256, 300, 301, 999} {
		copy(data[i*block:], noise(byte(i), 1))
	}
	whole, l := blob(t, data)
	have, layer := blob(t, old)
	p, err := Look(t.Context(), l, from(whole, nil), []Local{{layer, bytes.NewReader(have)}})
	if err != nil {
		t.Fatal(err)
	}
	all, err := Look(t.Context(), l, from(whole, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	const mib = 256
	for name, c := range map[string]struct {
		plan *Plan
		how  Joining // in blocks
		want [][2]int64
	}{
		"none": {p, Joining{0, mib, 0}, [][2]int64{
			{0, 1}, {3, 1}, {20, 1}, {255, 2}, {300, 2}, {999, 1},
		}},
		"near":                  {p, Joining{2, mib, 0}, [][2]int64{{0, 4}, {20, 1}, {255, 2}, {300, 2}, {999, 1}}},
		"none longer than this": {all, Joining{16, 400, 0}, [][2]int64{{0, 400}, {400, 400}, {800, 200}}},
		"aligned":               {p, Joining{0, 4 * mib, mib}, [][2]int64{{0, 512}, {768, 232}}},
		"each by itself":        {p, Joining{0, mib, mib}, [][2]int64{{0, mib}, {mib, mib}, {768, 232}}},
		"aligned and joined":    {p, Joining{mib, 4 * mib, mib}, [][2]int64{{0, 1000}}},
	} {
		var got [][2]int64
		for _, r := range c.plan.Ranges(Joining{c.how.Gap * block, c.how.Longest * block, c.how.Align * block}) {
			got = append(got, [2]int64{r.Off / block, r.N / block})
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Wrong bytes are never written: what is broken once is asked for again, and what stays broken is refused.
func TestHostileRemote(t *testing.T) {
	want, l := blob(t, noise(1, 300))
	cut := errors.New("connection reset")
	flip := func(_ int, _ int64, p []byte) io.Reader { p[len(p)/2] ^= 1; return bytes.NewReader(p) }
	for name, change := range map[string]func(n int, off int64, p []byte) (io.Reader, error){
		"flipped": func(n int, off int64, p []byte) (io.Reader, error) { return flip(n, off, p), nil },
		"short":   func(_ int, _ int64, p []byte) (io.Reader, error) { return bytes.NewReader(p[:len(p)-1]), nil },
		"swapped": func(_ int, _ int64, p []byte) (io.Reader, error) {
			return io.MultiReader(bytes.NewReader(p[block:]), bytes.NewReader(p[:block])), nil
		},
		"zeros": func(_ int, _ int64, p []byte) (io.Reader, error) {
			return bytes.NewReader(make([]byte, len(p))), nil
		},
		"reset": func(int, int64, []byte) (io.Reader, error) { return strings.NewReader(""), cut },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			once := func(n int, off int64, p []byte) (io.Reader, error) {
				if n%2 == 1 {
					return change(n, off, p)
				}
				return bytes.NewReader(p), nil
			}
			if got, _, err := get(t, l, from(want, once)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("broken once: %v", err)
			}
			if _, _, err := get(t, l, from(want, change)); err == nil {
				t.Error("broken each time: accepted")
			}
		})
	}
	final := func(int, int64, []byte) (io.Reader, error) { return strings.NewReader(""), Final{cut} }
	if _, _, err := get(t, l, from(want, final)); !errors.Is(err, cut) {
		t.Errorf("%v", err)
	}
	huge := l
	huge.Size = 1 << 50
	if _, _, err := get(t, huge, from(want, nil)); err == nil {
		t.Error("a layer of a petabyte accepted")
	}
}

// pieces counts the calls of WriteAt.
type pieces struct {
	memory
	calls int
}

func (p *pieces) WriteAt(b []byte, off int64) (int, error) {
	p.calls++
	return p.memory.WriteAt(b, off)
}

// Blocks that lie one behind the other here are copied together; one that has rotted among them is fetched.
func TestNeighboursAreCopiedTogether(t *testing.T) {
	data := noise(1, 1000)
	b, layer := blob(t, data)
	here := bytes.Clone(b)
	here[500*block] ^= 1
	plan, err := Look(t.Context(), layer, from(b, nil), []Local{{layer, bytes.NewReader(here)}})
	if err != nil {
		t.Fatal(err)
	}
	var w pieces
	stats, err := plan.Write(t.Context(), from(b, nil), &w, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(w.b, data) {
		t.Error("other bytes")
	}
	if stats.Reused != 999*block || stats.Ranges != 1 {
		t.Errorf("%+v", stats)
	}
	if most := 1000/atOnce + 3; w.calls > most {
		t.Errorf("%d writes, want at most %d", w.calls, most)
	}
}

// A blob's tree is in memory once, and the trees of what is here are not.
func TestMemoryOfAPlan(t *testing.T) {
	data := noise(1, 1<<15)
	b, layer := blob(t, data)
	tree := int64(len(b)) - layer.Size
	remote := func(_ context.Context, off, n int64) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(bytes.NewReader(b), off, n)), nil
	}
	locals := []Local{{layer, bytes.NewReader(b)}, {layer, bytes.NewReader(b)}, {layer, bytes.NewReader(b)}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Look(t.Context(), layer, remote, locals); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	// Of each block 32 bytes of digest, 8 of its place, and 4 while it is looked up; 256 KiB for each local tree.
	blocks := int64(1 << 15)
	most := tree + blocks*(8+4) + 4<<18
	if got := int64(after.TotalAlloc - before.TotalAlloc); got > most {
		t.Errorf("%d bytes for a tree of %d, want at most %d", got, tree, most)
	}
}
