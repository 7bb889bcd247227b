package loader

import (
	"errors"
	"maps"
	"slices"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
)

// BootFiles is what a release needs on the ESP.
type BootFiles struct {
	UKI []byte
	// For BIOS; nil where the architecture has none.
	Kernel, Initrd []byte
	Cmdline        string
	// Name is what boot menus call the release.
	Name string
}

// titled returns the UKI as it is on the ESP: its section .osrel says in the boot menu what it is. One that is signed,
// or made by a version that had no room for that, stays as it is.
func (f BootFiles) titled(state string) []byte {
	out, err := uki.Replace(f.UKI, uki.OSRel, layout.EntryOSRelease(f.Name, state))
	if err != nil {
		return f.UKI
	}
	return out
}

// Size returns the bytes that the files take.
func (f BootFiles) Size() int64 { return int64(len(f.UKI) + len(f.Kernel) + len(f.Initrd)) }

// File is a file on the ESP.
type File struct {
	Path string // relative to the ESP's root, with slashes
	Data []byte
}

// grubFiles are a release's files for GRUB.
func (f BootFiles) grubFiles(id string) []File {
	if f.Kernel == nil {
		return nil
	}
	dir := layout.GrubKernelDir + "/" + id
	return []File{
		{dir + "/vmlinuz", f.Kernel},
		{dir + "/initrd", f.Initrd},
		{dir + "/entry.cfg", layout.GrubEntry(f.Cmdline, f.Name)},
	}
}

func entryPath(e layout.Entry) string { return layout.UKIDir + "/" + e.String() }

// Programs are the boot loaders of an ESP.
type Programs struct {
	Arch        string // in OCI's words
	SystemdBoot []byte
	Grub        bool // whether GRUB boots this disk, too
}

// Files returns the files of the boot loaders: the same for every release that comes with these programs.
func (p Programs) Files() ([]File, error) {
	if len(p.SystemdBoot) == 0 {
		return nil, errors.New("boot loaders: systemd-boot is missing")
	}
	name, err := layout.EFIDefaultPath(p.Arch)
	if err != nil {
		return nil, err
	}
	files := []File{{name, p.SystemdBoot}, {layout.LoaderConfig, []byte(layout.LoaderConfigText)}}
	if p.Grub {
		files = append(files, File{layout.GrubConfig, layout.GrubDiskConfig()})
	}
	return files, nil
}

// Content returns all files of a new disk's ESP: one release, which is the recovery system, too.
func Content(p Programs, id string, f BootFiles, blessed bool) ([]File, error) {
	files, err := p.Files()
	if err != nil {
		return nil, err
	}
	if len(f.UKI) == 0 {
		return nil, errors.New("boot files: the UKI is missing")
	}
	system, recovery := layout.OnTrial(layout.RecoverySeq+1, id), layout.Entry{Seq: layout.RecoverySeq, ID: id}
	if blessed {
		system = layout.Blessed(system.Seq, id)
	}
	// The text comes first in its directory, see there.
	state := NewState([]layout.Entry{system, recovery})
	files = append(files, File{layout.UKIReadme, []byte(layout.UKIReadmeText)},
		File{entryPath(system), f.titled(state.Describe(system))},
		File{entryPath(recovery), f.titled(state.Describe(recovery))},
		File{layout.ResetEntry, layout.ResetEntryText(id, f.Name)})
	if !p.Grub {
		return files, nil
	}
	env, err := layout.GrubState{Entries: []layout.Entry{system}, Recovery: id}.Marshal()
	if err != nil {
		return nil, err
	}
	return slices.Concat(files, []File{{layout.GrubEnv, env}}, f.grubFiles(id)), nil
}

// Update makes the boot loaders' files those of a release, and returns the names of those that were others. Each is
// complete before it takes the old one's place.
func (v *Volume) Update(p Programs) (changed []string, err error) {
	files, err := p.Files()
	if err != nil {
		return nil, err
	}
	byName := map[string][]byte{}
	for _, f := range files {
		byName[f.Path] = f.Data
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		other, err := v.Put(name, byName[name])
		if err != nil {
			return changed, err
		}
		if other {
			changed = append(changed, name)
		}
	}
	if len(changed) == 0 {
		return nil, nil
	}
	return changed, v.Names.Reclaim() // of the files that were replaced
}
