// Package medium reads what an ISO or a disk has of Kairos: releases, what boots which of them, the boot files, and a
// release as an image whose layers are blobs.
//
//	ISO    COS_LIVE /kairos: store, config.yaml     EFI image: the UKI
//	disk   COS_STATE, COS_RECOVERY: stores          COS_GRUB: boot entries     COS_OEM: configs
//
// The names are those of package layout. A medium is a stranger's: what it states about sizes is bounded, and nothing
// here has been compared with a digest but the release's own encoding. Whoever takes a blob checks it against its root
// hash.
package medium

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/verity"
)

// Medium is an ISO or a disk.
type Medium struct {
	*disk.Medium
	Releases []Release // in the order in which they are tried; those on RECOVERY last
	// State is what the boot loader of a disk does next.
	State     loader.State
	BootFiles []BootFile
	// Configs are the names of cloud-configs. They are not read.
	Configs []string
	// Problems are what is damaged, in words for a person.
	Problems []string

	esp, live fs.FS // nil where there is none
}

// Places of a store.
const (
	PlaceLive     = "live"
	PlaceState    = "state"
	PlaceRecovery = "recovery"
)

// Roles of a release, beside the places live and recovery.
const (
	RoleActive  = "active"
	RolePassive = "passive"
	RoleFailed  = "failed" // it has used up its tries
)

// Release is one release on the medium.
type Release struct {
	layout.Release
	Place string
	Role  string    // none: nothing starts it
	Time  time.Time // when it was put there; of an exported medium, the time of all that is on it

	store fs.FS
}

// BootFile is a file that a firmware or a boot loader reads.
type BootFile struct {
	Path    string
	Size    int64  // bytes
	Cmdline string // of a UKI
	Release string // id, of a boot entry
}

const (
	maxReleases = 64
	maxNames    = 4096 // in a directory that is listed
	maxCmdline  = 64 << 10
	maxSmall    = 64 << 10 // of a file that is read for what it says
)

// Open reads a medium of a size in bytes.
func Open(r io.ReaderAt, size int64) (*Medium, error) {
	dm, err := disk.OpenMedium(r, size)
	if err != nil {
		return nil, err
	}
	m := &Medium{Medium: dm}
	for _, v := range dm.Volumes {
		if err := m.read(v); err != nil {
			m.Problems = append(m.Problems, err.Error())
		}
	}
	m.setRoles()
	slices.SortStableFunc(m.Releases, func(a, b Release) int { return cmp.Compare(a.rank(), b.rank()) })
	return m, nil
}

// rank orders releases as they are tried.
func (r Release) rank() int {
	order := []string{layout.RoleLive, RoleActive, RolePassive, RoleFailed, ""}
	if r.Place == PlaceRecovery {
		return len(order)
	}
	return slices.Index(order, r.Role)
}

// read reads a volume, if it is one of ours.
func (m *Medium) read(v disk.Volume) error {
	var do func(fs.FS) error
	switch {
	case m.Format == "iso" && v.FS == "iso9660":
		do = m.readLive
	case m.Format == "iso" && v.FS == "vfat", v.Label == layout.LabelESP:
		do = m.readESP
	case v.Label == layout.LabelState:
		do = func(f fs.FS) error { return m.readStore(f, PlaceState) }
	case v.Label == layout.LabelRecovery:
		do = func(f fs.FS) error { return m.readStore(f, PlaceRecovery) }
	case v.Label == layout.LabelOEM:
		do = m.readOEM
	default:
		return nil
	}
	files, err := v.Open()
	if err != nil {
		return err
	}
	if v.Dirty() {
		m.Problems = append(m.Problems,
			fmt.Sprintf("volume %s: it was not unmounted: what its journal has is not seen here; "+
				"start and shut down the machine, or run `e2fsck -p` on the partition", v.Label))
	}
	if err := do(files); err != nil {
		return fmt.Errorf("volume %s: %w", v.Label, err)
	}
	return nil
}

func (m *Medium) readLive(files fs.FS) error {
	m.live = files
	for _, name := range []string{layout.ImageKernel, layout.ImageInitrd, layout.LiveGrubConfig} {
		if info, err := fs.Stat(files, name); err == nil {
			m.BootFiles = append(m.BootFiles, BootFile{Path: name, Size: info.Size()})
		}
	}
	if _, err := fs.Stat(files, layout.LiveCloudConfig); err == nil {
		m.Configs = append(m.Configs, layout.LiveCloudConfig)
	}
	store, err := fs.Sub(files, layout.LiveRoot)
	if err != nil {
		return err
	}
	return m.readStore(store, PlaceLive)
}

func (m *Medium) readOEM(files fs.FS) error {
	entries, err := list(files, ".")
	for _, e := range entries {
		if ext := path.Ext(e.Name()); e.Type().IsRegular() && (ext == ".yaml" || ext == ".yml") {
			m.Configs = append(m.Configs, e.Name())
		}
	}
	return err
}

// readStore reads the releases of a store. One that is damaged is a problem, and not the end.
func (m *Medium) readStore(files fs.FS, place string) error {
	entries, err := list(files, layout.ReleasesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !layout.ValidID(e.Name()) {
			continue
		}
		if len(m.Releases) == maxReleases {
			return fmt.Errorf("more than %d releases", maxReleases)
		}
		r, err := readRelease(files, e.Name())
		if err != nil {
			m.Problems = append(m.Problems, fmt.Sprintf("%s: release %s: %v", place, e.Name(), err))
			continue
		}
		r.Place = place
		m.Releases = append(m.Releases, r)
	}
	return nil
}

func readRelease(files fs.FS, id string) (Release, error) {
	name := layout.ReleasePath(id)
	info, err := fs.Stat(files, name)
	if err != nil {
		return Release{}, err
	}
	b, err := bounded.ReadFile(files, name, layout.MaxReleaseSize)
	if err != nil {
		return Release{}, err
	}
	r, err := layout.ParseRelease(b)
	if err != nil {
		return Release{}, err
	}
	if r.ID() != id {
		return Release{}, fmt.Errorf("it says that it is %s", r.ID())
	}
	if b, err := bounded.ReadFile(files, layout.ReleaseSignaturesPath(id), layout.MaxSignaturesSize); err == nil {
		r.Signatures = b
	}
	b, err = bounded.ReadFile(files, layout.ReleaseBootSignaturesPath(id), layout.MaxBootSignaturesSize)
	if err == nil {
		r.BootSignatures = b
	}
	if !r.V1 { // where it was taken from is beside it, and may be missing
		if b, err := bounded.ReadFile(files, layout.ReleaseOriginPath(id), layout.MaxReleaseSize); err == nil {
			r.Image, _ = layout.ParseOrigin(b)
		}
	}
	return Release{Release: r, Time: info.ModTime().UTC(), store: files}, nil
}

// setRoles says what starts each release.
func (m *Medium) setRoles() {
	active, _ := m.State.Active()
	passive, _ := m.State.Passive()
	failed := m.State.Failed()
	for i := range m.Releases {
		r := &m.Releases[i]
		r.Role = ""
		switch id := r.ID(); {
		case r.Place == PlaceLive:
			r.Role = layout.RoleLive
		case r.Place == PlaceRecovery:
			if id == m.State.Recovery {
				r.Role = layout.RoleRecovery
			}
		case id == active.ID:
			r.Role = RoleActive
		case id == passive.ID:
			r.Role = RolePassive
		case slices.ContainsFunc(failed, func(e layout.Entry) bool { return e.ID == id }):
			r.Role = RoleFailed
		}
	}
}

// Find returns a release by its id or its role. Without a name it is the one that boots next, or the only one.
func (m *Medium) Find(name string) (*Release, error) {
	var found []*Release
	var names []string
	for i := range m.Releases {
		r := &m.Releases[i]
		names = append(names, strings.TrimSpace(r.ID()+" "+r.Role))
		if name != "" && (r.ID() == name || r.Role == name) {
			found = append(found, r)
		}
		if name == "" && (len(m.Releases) == 1 || r.Role == RoleActive) {
			found = append(found, r)
		}
	}
	switch {
	case len(found) > 0:
		return found[0], nil
	case len(m.Problems) > 0 && len(names) == 0:
		return nil, fmt.Errorf("no release can be read: %s", strings.Join(m.Problems, "; "))
	case len(names) == 0:
		return nil, errors.New("it has no release: it was not made by Kairos")
	case name == "":
		return nil, fmt.Errorf("none of its releases boots next: add :RELEASE, one of %s", strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("it has no release %q: it has %s", name, strings.Join(names, ", "))
}

// Image returns a release as an image. The medium is read when its layers are.
func (r *Release) Image(o image.Options) (*image.Image, error) {
	var blobs []image.Blob
	for i, l := range r.Layers {
		f, err := r.store.Open(layout.BlobPath(l.DiffID))
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		info, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		at, ok := f.(io.ReaderAt)
		if want := verity.TotalSize(l.Size); !ok || info.Size() != want {
			return nil, fmt.Errorf("layer %d, %s: its blob has %d bytes instead of %d: the medium is damaged",
				i+1, l.DiffID, info.Size(), want)
		}
		blobs = append(blobs, image.Blob{Layer: l, ReaderAt: at})
	}
	return image.FromRelease(r.Release, r.Time, blobs, o)
}

// list reads a directory, of not too many names.
func list(files fs.FS, dir string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(files, dir)
	if err != nil {
		return nil, err
	}
	if len(entries) > maxNames {
		return nil, fmt.Errorf("%s has %d names", dir, len(entries))
	}
	return entries, nil
}
