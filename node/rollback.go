package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/store"
)

// Rollback makes another release that the node has boot next, on trial like any other: the
// passive one, or the one whose id is given, which may be one that failed before.
func (m *Machine) Rollback(ctx context.Context, id string, progress Progress) (r api.Result, err error) {
	if err := m.installed(); err != nil {
		return r, err
	}
	slots, err := m.ESP.State()
	if err != nil {
		return r, err
	}
	if id == "" {
		if id, err = m.other(slots); err != nil {
			return r, err
		}
	}
	if !layout.ValidID(id) {
		return r, refuse("release %q: want the %d hex digits that `kairos-apply status` shows", id, layout.IDLength)
	}
	r.Release = id
	if active, ok := slots.Active(); ok && active.ID == id {
		r.Removed, err = m.finish(ctx, nil, id, progress)
		return r, err
	}
	if !slots.Has(id) || !m.complete(m.State, id) {
		return r, refuse("release %s is not on this node: see `kairos-apply status`, or upgrade to its image", id)
	}
	release, err := m.State.Release(id)
	if err != nil {
		return r, err
	}
	r.Version = release.Version
	// The boot files as they are on the ESP may be what made it fail; the layers are verified.
	files, facts, err := m.bootFiles(m.State, withCmdline(release, m.config().Install()), progress)
	if err != nil {
		return r, err
	}
	if err := m.acceptable(release, files.UKI, facts, progress, layout.RoleSystem); err != nil {
		return r, err
	}
	staged := &stagedRelease{release: release, files: files}
	if err := m.activate(ctx, staged, progress); err != nil {
		return r, m.explain(err)
	}
	r.Changed = true
	if r.Removed, err = m.finish(ctx, nil, id, progress); err != nil {
		return r, err
	}
	return r, m.FS.Remove(filepath.Join(m.State.Dir(), layout.FailurePath(id)))
}

// other returns the release to roll back to: the one that is not active.
func (m *Machine) other(slots loader.State) (string, error) {
	active, _ := slots.Active()
	for _, e := range slots.Entries {
		if e.ID != active.ID && m.complete(m.State, e.ID) {
			return e.ID, nil
		}
	}
	return "", refuse("there is no release to roll back to: this node has one only")
}

// Clean says whether [Machine.GC] would find nothing to remove on the running system. It mounts nothing and writes
// nothing; what cannot be read so is not known to be clean.
func Clean(root string) (clean bool, err error) {
	b, err := ReadBoot(root)
	if err != nil || b.Role != layout.RoleSystem {
		return false, err
	}
	m := &Machine{Boot: b, Root: root}
	m.State = store.New(m.bootedStore())
	err = onESP(b, func(v *fat.Volume) error {
		slots, err := readVolume(b, v)
		if err != nil {
			return err
		}
		keep := m.kept(slots)
		if clean, err = loader.Clean(loader.In(v.FS()), slots, keep); err != nil || !clean {
			return err
		}
		if _, err := v.Reclaim(); err != nil {
			clean = false // the device was opened for reading: there is something to be written
			return nil
		}
		if clean, err = (store.View{FS: os.DirFS(m.State.Dir())}).Clean(keep); err != nil || !clean {
			return err
		}
		files, done := m.unmountedStore()
		defer done()
		if files == nil {
			clean = false
			return nil
		}
		recovery := store.View{FS: files}
		if slots.Recovery != "" && completeIn(recovery, slots.Recovery) {
			clean, err = recovery.Clean(recoveryKeeps(slots))
		}
		return err
	})
	return clean && err == nil, err
}

// GC removes the releases that no role needs, their layers, and what interrupted runs
// have left.
func (m *Machine) GC(ctx context.Context, progress Progress) ([]string, error) {
	if err := m.installed(); err != nil {
		return nil, err
	}
	ctx, e, done, err := m.engine(ctx, UpgradeOptions{}, m.State)
	if err != nil {
		return nil, err
	}
	gone, err := m.collect(ctx, e, progress)
	if derr := done(err); err == nil {
		err = derr
	}
	if err != nil {
		return gone, fmt.Errorf("collect garbage: %w", err)
	}
	if m.Recovery != nil {
		slots, err := m.ESP.State()
		if err != nil {
			return gone, err
		}
		if slots.Recovery != "" && m.complete(m.Recovery, slots.Recovery) {
			if _, err := store.NewOn(m.Recovery.Dir(), m.FS).GC(ctx, recoveryKeeps(slots)); err != nil {
				return gone, err
			}
		}
	}
	return gone, nil
}
