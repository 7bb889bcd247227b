package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/layout"
)

// ESP is the EFI system partition: what boots, on UEFI and on BIOS.
type ESP struct {
	Dir  string // where it is mounted
	BIOS bool   // the machine boots with GRUB, so that grubenv decides
	FS   *durable.FS
	// Rename gives a file another name in its folder, as one write of the disk. Nil stands
	// for rename(2), which is enough where Dir is not FAT.
	Rename func(dir, from, to string) error
	// Exchange swaps the content of two files in one folder, as one write of the disk. Nil
	// stands for renameat2(2).
	Exchange func(dir, a, b string) error
	// Remove takes away the name of a file, or of a folder with all that is in it, as one write of the disk; Reclaim
	// then frees what has no name any more, here or from a power cut. Nil stands for unlink(2) and
	// rmdir(2), which are enough where Dir is not FAT.
	Remove  func(dir, name string) error
	Reclaim func() error
}

// BootFiles is what a release needs on the ESP.
type BootFiles struct {
	UKI []byte
	// For BIOS; nil where the architecture has none.
	Kernel, Initrd []byte
	Cmdline        string
}

// Size returns the bytes that the files take.
func (f BootFiles) Size() int64 { return int64(len(f.UKI) + len(f.Kernel) + len(f.Initrd)) }

// staged ends the name of a UKI that no loader shall look at. It differs from ".efi" within
// the last 13 characters of the name, which FAT keeps in one place: so that taking it on and off
// is one write of one sector.
const staged = ".tmp"

func stagedName(e layout.Entry) string { return strings.TrimSuffix(e.String(), ".efi") + staged }

func (p *ESP) path(name string) string { return filepath.Join(p.Dir, filepath.FromSlash(name)) }

// Slots reads what boots: from the names on UEFI, from grubenv on BIOS.
func (p *ESP) Slots() (Slots, error) {
	entries, err := p.names()
	if err != nil {
		return Slots{}, err
	}
	if p.BIOS {
		if g, err := p.grub(); err == nil {
			entries = g.Entries
			if g.Recovery != "" {
				entries = append(entries, layout.Entry{ID: g.Recovery})
			}
		}
		// A grubenv that cannot be read is written anew from the names.
	}
	return newSlots(entries), nil
}

// names returns the entries in EFI/Linux.
func (p *ESP) names() ([]layout.Entry, error) {
	files, err := os.ReadDir(p.path(layout.UKIDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("boot entries: %w", err)
	}
	var entries []layout.Entry
	for _, f := range files {
		if e, err := layout.ParseEntry(f.Name()); err == nil {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

func (p *ESP) grub() (layout.GrubState, error) {
	b, err := os.ReadFile(p.path(layout.GrubEnv))
	if err != nil {
		return layout.GrubState{}, err
	}
	return layout.ParseGrubEnv(b)
}

// nextSeq returns a sequence number above all that were ever seen here.
func (p *ESP) nextSeq() (uint32, error) {
	entries, err := p.names()
	if err != nil {
		return 0, err
	}
	if g, err := p.grub(); err == nil {
		entries = append(entries, g.Entries...)
	}
	var top uint32
	for _, e := range entries {
		top = max(top, e.Seq)
	}
	if top == layout.MaxSeq {
		return 0, fmt.Errorf("boot entries: sequence number %d is the last one", top)
	}
	return top + 1, nil
}

// Activate makes a release the one that boots next, on trial unless it is blessed
// beforehand. It is the commit of an upgrade, a rollback and an installation.
func (p *ESP) Activate(id string, files BootFiles, blessed bool) error {
	seq, err := p.nextSeq()
	if err != nil {
		return err
	}
	e := layout.Entry{Seq: seq, ID: id, Counted: !blessed}
	if e.Counted {
		e.Left = layout.Tries
	}
	slots, err := p.Slots() // as they are before
	if err != nil {
		return err
	}
	// First: what a power cut tore may have clusters that FAT takes for free, and new files would be given them.
	if err := p.removeLeftovers(slots); err != nil {
		return fmt.Errorf("activate release %s: %w", id, err)
	}
	if err := p.put(e, files); err != nil {
		return fmt.Errorf("activate release %s: %w", id, err)
	}
	if err := p.writeGrub(newSlots(append(all(slots), e))); err != nil {
		return fmt.Errorf("activate release %s: %w", id, err)
	}
	return nil
}

// ActivateRecovery makes a release the recovery system.
func (p *ESP) ActivateRecovery(id string, files BootFiles) error {
	slots, err := p.Slots()
	if err != nil {
		return err
	}
	if err := p.removeLeftovers(slots); err != nil { // first, as in Activate
		return fmt.Errorf("recovery release %s: %w", id, err)
	}
	if err := p.put(layout.Entry{Seq: layout.RecoverySeq, ID: id}, files); err != nil {
		return fmt.Errorf("recovery release %s: %w", id, err)
	}
	old := slots.Recovery
	slots.Recovery = id
	if err := p.writeGrub(slots); err != nil {
		return fmt.Errorf("recovery release %s: %w", id, err)
	}
	if old != "" && old != id {
		if err := p.remove(p.path(layout.UKIDir), layout.Entry{Seq: layout.RecoverySeq, ID: old}.String()); err != nil {
			return err
		}
		return p.reclaim()
	}
	return nil
}

// all returns the slots' entries, recovery among them.
func all(s Slots) []layout.Entry {
	entries := slices.Clone(s.Entries)
	if s.Recovery != "" {
		entries = append(entries, layout.Entry{Seq: layout.RecoverySeq, ID: s.Recovery})
	}
	return entries
}

// put brings a release's boot files to the ESP; the UKI gets its name last.
func (p *ESP) put(e layout.Entry, files BootFiles) error {
	if len(files.UKI) == 0 {
		return errors.New("no UKI")
	}
	if files.Kernel != nil {
		dir := p.path(layout.GrubKernelDir + "/" + e.ID)
		if err := p.FS.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for _, f := range []struct {
			name string
			data []byte
		}{{"vmlinuz", files.Kernel}, {"initrd", files.Initrd}, {"entry.cfg", layout.GrubEntry(files.Cmdline)}} {
			if err := p.writeOnce(filepath.Join(dir, f.name), f.data); err != nil {
				return err
			}
		}
	}
	dir := p.path(layout.UKIDir)
	if err := p.FS.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if have, err := os.ReadFile(filepath.Join(dir, e.String())); err == nil && bytes.Equal(have, files.UKI) {
		return nil
	}
	temp := filepath.Join(dir, stagedName(e))
	if err := p.writeNew(temp, files.UKI); err != nil {
		return err
	}
	return p.rename(dir, filepath.Base(temp), e.String())
}

// writeNew writes a file under a name that nobody looks at yet. It uses no rename(2): FAT
// has no journal, and a power cut in between leaves two names with the same clusters.
func (p *ESP) writeNew(path string, data []byte) (err error) {
	if err := p.remove(filepath.Dir(path), filepath.Base(path)); err != nil { // of a run that was cut off
		return err
	}
	f, err := p.FS.CreateAt(path, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(path) // make room again
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := p.FS.Sync(f); err != nil {
		return err
	}
	return p.FS.SyncDir(filepath.Dir(path))
}

// writeOnce writes a file that is not used yet, unless it is there already.
func (p *ESP) writeOnce(path string, data []byte) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return nil
	}
	return p.writeNew(path, data)
}

// remove takes away the name of a file, or of a folder with all that is in it, in one write. That it does not
// exist is no error.
//
// unlink(2) does not do on FAT: a name may come back that has lost its bytes, and what a power cut has torn
// may have clusters that are another file's by now, which would lose them.
func (p *ESP) remove(dir, name string) error {
	path := filepath.Join(dir, name)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if p.Remove != nil {
		return p.FS.Do(durable.Step{Kind: durable.Remove, Path: path}, func() error {
			rel, err := filepath.Rel(p.Dir, dir)
			if err != nil {
				return err
			}
			return p.Remove(rel, name)
		})
	}
	if info.IsDir() {
		inside, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, f := range inside {
			if err := p.remove(path, f.Name()); err != nil {
				return err
			}
		}
	}
	return p.FS.Remove(path)
}

// reclaim frees what has no name.
func (p *ESP) reclaim() error {
	if p.Reclaim == nil {
		return nil
	}
	return p.Reclaim()
}

// rename changes a name in one write.
func (p *ESP) rename(dir, from, to string) error {
	if p.Rename == nil {
		return p.FS.Rename(filepath.Join(dir, from), filepath.Join(dir, to))
	}
	return p.FS.Do(durable.Step{Kind: durable.Rename, Path: filepath.Join(dir, from), To: filepath.Join(dir, to)}, func() error {
		rel, err := filepath.Rel(p.Dir, dir)
		if err != nil {
			return err
		}
		return p.Rename(rel, from, to)
	})
}

// writeGrub makes grubenv say what slots say.
func (p *ESP) writeGrub(s Slots) error {
	path := p.path(layout.GrubEnv)
	g := layout.GrubState{Recovery: s.Recovery}
	for _, e := range s.Entries {
		if len(g.Entries) < layout.GrubSlots {
			g.Entries = append(g.Entries, e)
		}
	}
	want, err := g.Marshal()
	if err != nil {
		return err
	}
	have, err := os.ReadFile(path)
	switch {
	case err == nil && bytes.Equal(have, want):
		return nil
	case err == nil && len(have) == len(want):
		return p.FS.Overwrite(path, want, 0)
	case err == nil || errors.Is(err, fs.ErrNotExist):
		if err := p.FS.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return p.writeNew(path, want)
	}
	return err
}

// Bless takes the counter off a release.
func (p *ESP) Bless(id string) error {
	slots, err := p.Slots()
	if err != nil {
		return err
	}
	found := false
	for i, e := range slots.Entries {
		if e.ID == id && e.Counted {
			slots.Entries[i].Counted, slots.Entries[i].Left, slots.Entries[i].Done = false, 0, 0
			found = true
		}
	}
	if !found {
		if !slots.Has(id) && slots.Recovery != id {
			return fmt.Errorf("bless release %s: it has no boot entry", id)
		}
		return p.Mirror()
	}
	if err := p.apply(newSlots(all(slots))); err != nil {
		return fmt.Errorf("bless release %s: %w", id, err)
	}
	return nil
}

// Mirror makes whichever of the names and grubenv does not decide agree with the one
// that does.
func (p *ESP) Mirror() error {
	slots, err := p.Slots()
	if err != nil {
		return err
	}
	return p.apply(slots)
}

// apply writes the slots' counters: first where they decide. Both are of the same entries.
func (p *ESP) apply(s Slots) error {
	if p.BIOS {
		if err := p.writeGrub(s); err != nil {
			return err
		}
		return p.writeNames(s)
	}
	if err := p.writeNames(s); err != nil {
		return err
	}
	return p.writeGrub(s)
}

// writeNames renames the UKIs whose counter is another one.
func (p *ESP) writeNames(s Slots) error {
	names, err := p.names()
	if err != nil {
		return err
	}
	for _, have := range names {
		for _, want := range s.Entries {
			if have.Seq == want.Seq && have.ID == want.ID && have != want {
				if err := p.rename(p.path(layout.UKIDir), have.String(), want.String()); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Retire removes all entries but the newest one of each release in keep, and recovery.
// It returns the ids of releases that have no entry any more.
func (p *ESP) Retire(keep []string) (gone []string, err error) {
	slots, err := p.Slots()
	if err != nil {
		return nil, err
	}
	var stay Slots
	stay.Recovery = slots.Recovery
	for _, e := range slots.Entries {
		if slices.Contains(keep, e.ID) && !stay.Has(e.ID) {
			stay.Entries = append(stay.Entries, e)
		} else if !slices.Contains(keep, e.ID) && !slices.Contains(gone, e.ID) {
			gone = append(gone, e.ID)
		}
	}
	// First what decides, so that nothing is removed that the loader might choose.
	if err := p.writeGrub(stay); err != nil {
		return nil, err
	}
	names, err := p.names()
	if err != nil {
		return nil, err
	}
	for _, e := range names {
		if e.Seq != layout.RecoverySeq && !slices.Contains(stay.Entries, e) && !(p.BIOS && inSlots(stay, e)) ||
			e.Seq == layout.RecoverySeq && e.ID != stay.Recovery {
			if err := p.remove(p.path(layout.UKIDir), e.String()); err != nil {
				return nil, err
			}
		}
	}
	return gone, p.removeLeftovers(stay)
}

// inSlots says whether e is one of the entries, whatever its counter.
func inSlots(s Slots, e layout.Entry) bool {
	return slices.ContainsFunc(s.Entries, func(x layout.Entry) bool { return x.Seq == e.Seq && x.ID == e.ID })
}

// removeLeftovers removes what runs that were cut off have left, named or not, and the BIOS files of
// releases that have no entry.
func (p *ESP) removeLeftovers(s Slots) error {
	files, err := os.ReadDir(p.path(layout.UKIDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range files {
		if isLeftover(f.Name()) {
			if err := p.remove(p.path(layout.UKIDir), f.Name()); err != nil {
				return err
			}
		}
	}
	dirs, err := os.ReadDir(p.path(layout.GrubKernelDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range dirs {
		if !layout.ValidID(d.Name()) || s.Has(d.Name()) || s.Recovery == d.Name() {
			continue
		}
		if err := p.remove(p.path(layout.GrubKernelDir), d.Name()); err != nil {
			return err
		}
	}
	return p.reclaim()
}

// isLeftover says whether a name in EFI/Linux is what a run that was cut off has left: a UKI that no loader was to
// look at, or, where somebody has put files of his own beside the entries, one with half of its name, which
// shows it by its short one.
func isLeftover(name string) bool {
	name = strings.ToLower(name)
	return strings.HasSuffix(name, staged) || strings.HasPrefix(name, "kairos~")
}

// BootFiles reads the boot files of a release that has an entry.
func (p *ESP) BootFiles(id string) (BootFiles, error) {
	names, err := p.names()
	if err != nil {
		return BootFiles{}, err
	}
	for _, e := range names {
		if e.ID != id {
			continue
		}
		uki, err := os.ReadFile(filepath.Join(p.path(layout.UKIDir), e.String()))
		if err != nil {
			return BootFiles{}, fmt.Errorf("boot files of release %s: %w", id, err)
		}
		return BootFiles{UKI: uki}, nil
	}
	return BootFiles{}, fmt.Errorf("boot files of release %s: %w", id, fs.ErrNotExist)
}
