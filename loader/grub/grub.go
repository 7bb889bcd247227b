// Package grub is GRUB on the ESP of a node: its environment block, grubenv, says which releases it starts and how
// many tries they have left, see [layout.GrubState]. GRUB rewrites it in place, within one sector, before it starts
// one.
package grub

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
)

// Loader is GRUB.
type Loader struct{}

// Entries reads grubenv.
func (Loader) Entries(v loader.Files) ([]layout.Entry, error) {
	g, err := read(v)
	if err != nil {
		return nil, err
	}
	entries := g.Entries
	if g.Recovery != "" {
		entries = append(entries, layout.Entry{Seq: layout.RecoverySeq, ID: g.Recovery})
	}
	if g.Trial.ID != "" {
		entries = append(entries, g.Trial)
	}
	return entries, nil
}

// Set makes grubenv say what s says. Entries beyond those that GRUB knows are left out.
func (Loader) Set(v *loader.Volume, s loader.State) error {
	g := state(s)
	if old, err := read(v); err == nil {
		g.Next = next(g, chosen(old))
	}
	return write(v, g)
}

// Next sets what GRUB starts once, and removes then.
func (Loader) Next(v *loader.Volume, s loader.State, c loader.Choice) error {
	g := state(s)
	if g.Next = next(g, c); g.Next == "" && c.Chosen() {
		return fmt.Errorf("release %s is not among the %d that GRUB knows", c.Entry.ID, layout.GrubSlots)
	}
	return write(v, g)
}

// Chosen says whether grubenv has a choice.
func (Loader) Chosen(v loader.Files) (bool, error) {
	g, err := read(v)
	return g.Next != "", err
}

// CanTry says why GRUB does not start a recovery system on trial: its grub.cfg is that of an older version until the
// release that brought another one is blessed.
func (Loader) CanTry(v loader.Files) error {
	b, err := v.ReadFile(layout.GrubConfig)
	if err == nil && !bytes.Contains(b, []byte(layout.GrubTrialID)) {
		err = errors.New("the boot loader's configuration is that of an older version")
	}
	return err
}

func state(s loader.State) layout.GrubState {
	return layout.GrubState{
		Recovery: s.Recovery, Trial: s.Trial, Entries: s.Entries[:min(len(s.Entries), layout.GrubSlots)],
	}
}

// next is what a choice is called in grubenv, and "" where there is none such.
func next(g layout.GrubState, c loader.Choice) string {
	switch {
	case !c.Chosen():
		return ""
	case c.Entry.Seq == layout.RecoverySeq && c.Entry.ID == g.Trial.ID && !c.Reset:
		return "trial"
	case c.Entry.Seq == layout.RecoverySeq && c.Entry.ID != g.Recovery:
		return ""
	case c.Reset:
		return "reset"
	case c.Entry.Seq == layout.RecoverySeq:
		return "recovery"
	}
	for i, e := range g.Entries {
		if e.Seq == c.Entry.Seq && e.ID == c.Entry.ID {
			return fmt.Sprint(i + 1)
		}
	}
	return ""
}

// chosen is the inverse of next.
func chosen(g layout.GrubState) loader.Choice {
	switch g.Next {
	case "recovery", "reset":
		return loader.Choice{Entry: layout.Entry{Seq: layout.RecoverySeq, ID: g.Recovery}, Reset: g.Next == "reset"}
	case "trial":
		return loader.Choice{Entry: g.Trial}
	case "1", "2", "3":
		if i := int(g.Next[0] - '1'); i < len(g.Entries) {
			return loader.Choice{Entry: g.Entries[i]}
		}
	}
	return loader.Choice{}
}

func read(v loader.Files) (layout.GrubState, error) {
	b, err := v.ReadFile(layout.GrubEnv)
	if err != nil {
		return layout.GrubState{}, err
	}
	return layout.ParseGrubEnv(b)
}

func write(v *loader.Volume, g layout.GrubState) error {
	b, err := g.Marshal()
	if err != nil {
		return fmt.Errorf("grubenv: %w", err)
	}
	return v.PutSector(layout.GrubEnv, b)
}
