package grub

import (
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
)

const idA, idB, idC = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"

// A choice for one start stays when something else writes grubenv, and leads to the same release when the releases
// change places.
func TestNext(t *testing.T) {
	v := &loader.Volume{Dir: t.TempDir()}
	before := loader.NewState([]layout.Entry{layout.Blessed(1, idA), layout.Blessed(2, idB), {ID: idA}})
	after := loader.NewState(append(before.All(), layout.OnTrial(3, idC)))
	for what, want := range map[string][2]string{
		"active": {"", ""}, "passive": {"2", "3"}, "recovery": {"recovery", "recovery"}, "reset": {"reset", "reset"},
		idA: {"2", "3"},
	} {
		c, err := before.Choose(what)
		if err != nil {
			t.Fatal(err)
		}
		for i, do := range []func() error{
			func() error { return Loader{}.Next(v, before, c) },
			func() error { return Loader{}.Set(v, after) },
		} {
			if err := do(); err != nil {
				t.Fatal(err)
			}
			g, err := read(v)
			if err != nil || g.Next != want[i] {
				t.Errorf("%s, step %d: %q, %v", what, i, g.Next, err)
			}
		}
	}
	// A release that goes takes the choice with it.
	c, _ := before.Choose(idA)
	gone := loader.NewState([]layout.Entry{layout.Blessed(2, idB), {ID: idB}})
	if err := (Loader{}).Next(v, before, c); err != nil {
		t.Fatal(err)
	}
	if err := (Loader{}).Set(v, gone); err != nil {
		t.Fatal(err)
	}
	if g, err := read(v); err != nil || g.Next != "" {
		t.Errorf("%q, %v", g.Next, err)
	}
}
