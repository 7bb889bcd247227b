// Package sdboot is systemd-boot on the ESP of a node: a UKI's name says in which order it is started and how many
// tries it has left (Boot Loader Specification, "Boot counting"). The loader renames it before it starts it.
package sdboot

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/uki"
)

// Loader is systemd-boot.
type Loader struct {
	// Variables are the firmware's, by which it is told what to start once.
	Variables efivars.Dir
}

// Entries reads the names.
func (Loader) Entries(v loader.Files) ([]layout.Entry, error) {
	names, err := v.ReadDir(layout.UKIDir)
	if err != nil {
		return nil, fmt.Errorf("boot entries: %w", err)
	}
	var entries []layout.Entry
	for _, name := range names {
		if e, err := layout.ParseEntry(name); err == nil {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// Set renames the UKIs whose counter is another one; it makes none, and removes none but the recovery system whose
// place another one takes. Then it has the menu show what each one is, and offer the reset by the
// recovery system that there is.
func (l Loader) Set(v *loader.Volume, s loader.State) error {
	have, err := l.Entries(v)
	if err != nil {
		return err
	}
	for _, h := range have {
		for _, want := range s.All() {
			if h.Seq != want.Seq || h.ID != want.ID || h == want || slices.Contains(have, want) {
				continue
			}
			if h.Seq == layout.RecoverySeq && !want.Counted {
				// First: of two that are not counted nobody would know which one came up.
				if err := removeRecovery(v, have); err != nil {
					return err
				}
			}
			if err := v.Rename(layout.UKIDir+"/"+h.String(), layout.UKIDir+"/"+want.String()); err != nil {
				return err
			}
		}
	}
	var recovery string
	for _, e := range s.All() {
		name, err := l.title(v, s, e)
		if err != nil {
			return err
		}
		if e.Seq == layout.RecoverySeq && !e.Counted {
			recovery = name
		}
	}
	return l.reset(v, s, recovery)
}

// removeRecovery removes the recovery systems that are not on trial.
func removeRecovery(v *loader.Volume, have []layout.Entry) error {
	for _, e := range have {
		if e.Seq != layout.RecoverySeq || e.Counted {
			continue
		}
		if err := v.Remove(layout.UKIDir + "/" + e.String()); err != nil {
			return err
		}
	}
	return nil
}

// title writes what an entry is into its UKI: one sector, which no power cut tears. It returns the entry's name. Where
// there is no room, the menu shows the file's name.
func (l Loader) title(v *loader.Volume, s loader.State, e layout.Entry) (string, error) {
	file := layout.UKIDir + "/" + e.String()
	have, off, err := v.Section(file, uki.OSRel)
	if err != nil {
		return "", nil // damaged, signed, or an older one: no reason not to go on
	}
	name, ok := layout.ParseEntryName(have)
	if !ok || off%layout.EntryOSReleaseSize != 0 {
		return "", nil
	}
	return name, v.Patch(file, off, layout.EntryOSRelease(name, s.Describe(e)))
}

// reset keeps the entry that resets.
func (Loader) reset(v *loader.Volume, s loader.State, name string) error {
	if s.Recovery == "" {
		return v.Remove(layout.ResetEntry)
	}
	_, err := v.Put(layout.ResetEntry, layout.ResetEntryText(s.Recovery, name))
	return err
}

// oneShot is the variable that names what the loader starts once. The loader removes it.
const oneShot = "LoaderEntryOneShot"

// Chosen says whether it is set.
func (l Loader) Chosen(loader.Files) (bool, error) {
	b, err := l.Variables.Read(oneShot, efivars.Loader)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return len(b) > 0, err
}

// CanTry says why that variable cannot be set.
func (l Loader) CanTry(loader.Files) error { return l.Variables.Check() }

// Next sets or removes that variable.
func (l Loader) Next(v *loader.Volume, s loader.State, c loader.Choice) error {
	if !c.Chosen() {
		return l.Variables.Remove(oneShot, efivars.Loader)
	}
	if err := l.Variables.Check(); err != nil {
		return err
	}
	if c.Reset {
		if !v.HasSection(layout.UKIDir+"/"+c.Entry.String(), uki.Profile) {
			return errors.New(
				"the recovery system has no entry for a reset: choose recovery, and run `kairos-apply reset` there")
		}
		if err := l.Set(v, s); err != nil { // the entry may be missing
			return err
		}
	}
	return l.Variables.Write(oneShot, efivars.Loader, efivars.FromText(Pattern(c)))
}

// Pattern is what a choice is called among the loader's entries, whatever counter it has.
func Pattern(c loader.Choice) string {
	if c.Reset {
		name := layout.ResetEntry[strings.LastIndexByte(layout.ResetEntry, '/')+1:]
		before, _, _ := strings.Cut(name, "+")
		return before + "*.conf"
	}
	e := c.Entry
	e.Counted = false
	return strings.TrimSuffix(e.String(), ".efi") + "*.efi"
}
