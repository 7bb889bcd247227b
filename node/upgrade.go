package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// UpgradeOptions say what to upgrade to.
type UpgradeOptions struct {
	Source   Source
	Recovery bool // the recovery system instead of the active one
	// UnlessFailed refuses a release that used up its tries here, and is still known for that.
	UnlessFailed bool
	// Containerd is the address of a running daemon that does the fetching. Empty: its parts in
	// this process.
	Containerd string
	Namespace  string // of the daemon; empty: "kairos"
	Registry   RegistryOptions
	Arch       string // empty: this machine's
	Progress   Progress
}

// Result is what an upgrade or a rollback did.
type Result struct {
	Release  string `json:"release"`
	Version  string `json:"version,omitempty"`
	Changed  bool   `json:"changed"` // whether another release boots next than before
	Recovery bool   `json:"recovery,omitempty"`
	// Removed are releases that no role needs any more.
	Removed []string `json:"removed,omitempty"`
}

// Upgrade stages an image and makes it the release that boots next, on trial. What is
// booted and what was last known good stays.
func (m *Machine) Upgrade(ctx context.Context, o UpgradeOptions) (r Result, err error) {
	if err := m.installed(); err != nil {
		return r, err
	}
	target := m.State
	if o.Recovery {
		if target = m.Recovery; target == nil {
			return r, errors.New("the recovery partition cannot be mounted: `kairos-apply reset` makes the disk anew")
		}
		if m.Boot.Role == layout.RoleRecovery {
			return r, refuse("the recovery system runs: start the active one, then upgrade recovery from there")
		}
	}
	ctx, e, done, err := m.engine(ctx, o, target)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, done(err)) }()

	img, err := e.image(ctx, o.Source, arch(o.Arch), o.Registry, o.Progress)
	if err != nil {
		return r, err
	}
	r.Release, r.Version, r.Recovery = layout.ReleaseID(img.digest), img.version(), o.Recovery
	if o.Recovery {
		return m.upgradeRecovery(ctx, img, r, o.Progress)
	}
	slots, err := m.ESP.Slots()
	if err != nil {
		return r, err
	}
	if o.UnlessFailed {
		if err := m.refuseFailed(slots, r); err != nil {
			return r, err
		}
	}
	if active, ok := slots.Active(); ok && active.ID == r.Release && m.complete(m.State, r.Release) {
		r.Removed, err = m.finish(ctx, e, r.Release, o.Progress)
		return r, err
	}
	if err := m.makeRoom(ctx, m.State, img, slots, e, o.Progress); err != nil {
		return r, err
	}
	staged, err := m.stage(ctx, m.State, img, o.Progress)
	if err != nil {
		return r, m.explain(m.dropUnused(ctx, m.State, err))
	}
	if _, err := e.commitSnapshots(ctx, r.Release, staged.release.Layers); err != nil {
		o.Progress.note(fmt.Sprintf("the layers are not visible as containerd's snapshots: %v", err))
	}
	r.Version = staged.release.Version
	if err := m.activate(ctx, staged, o.Progress); err != nil {
		_ = e.removeSnapshots(context.WithoutCancel(ctx), ids(slots)) // the error above is what matters
		return r, m.explain(m.dropUnused(ctx, m.State, err))
	}
	r.Changed = true
	r.Removed, err = m.finish(ctx, e, r.Release, o.Progress)
	return r, err
}

func (m *Machine) refuseFailed(slots Slots, r Result) error {
	for _, e := range slots.Failed() {
		if e.ID != r.Release {
			continue
		}
		reason := "it used up its tries"
		if f := slot(m.State, e).Failure; f != nil && f.Reason != "" {
			reason = f.Reason
		}
		return refuse("release %s (%s) has failed on this node: %s. Upgrade without --unless-failed to try it again", r.Release, r.Version, reason)
	}
	return nil
}

// finish does what follows on the commit: that it takes a restart, the release's boot loader, and what is not
// needed any more. A run that was cut off may have left it to the next one.
func (m *Machine) finish(ctx context.Context, e *engine, id string, progress Progress) ([]string, error) {
	if err := m.wantRestart(id != m.booted()); err != nil {
		return nil, err
	}
	release, err := m.State.Release(id)
	if err != nil {
		return nil, err
	}
	if err := m.updateLoaders(release, progress); err != nil {
		return nil, m.explain(err)
	}
	return m.collect(ctx, e, progress)
}

// activate makes a staged release boot next.
func (m *Machine) activate(ctx context.Context, s *stagedRelease, progress Progress) error {
	if err := m.roomOnESP(ctx, s, progress); err != nil {
		return err
	}
	progress.step("activate", s.release.ID())
	return m.ESP.Activate(s.release.ID(), s.files, false)
}

// roomOnESP makes sure that the boot files fit, at the cost of releases that nobody needs.
func (m *Machine) roomOnESP(ctx context.Context, s *stagedRelease, progress Progress) error {
	need := s.files.Size() + 1<<20
	have, err := free(m.ESP.Dir)
	if err != nil || have >= need {
		return err
	}
	slots, err := m.ESP.Slots()
	if err != nil {
		return err
	}
	progress.note("the ESP is nearly full: removing releases that no role needs first")
	if _, err := m.ESP.Retire(m.protected(slots)); err != nil {
		return err
	}
	if have, err = free(m.ESP.Dir); err != nil || have >= need {
		return err
	}
	return refuse("the ESP has %s free, the boot files take %s: remove files from it that are not Kairos's", mib(have), mib(need))
}

// makeRoom makes sure that an image's missing layers fit. Only if they do not, it removes
// what no role needs before the new release is there.
func (m *Machine) makeRoom(ctx context.Context, s *store.Store, img *image, slots Slots, e *engine, progress Progress) error {
	need, err := needed(s, img)
	if err != nil {
		return err
	}
	have, err := free(s.Dir())
	if err != nil || have >= need+reserve {
		return err
	}
	keep := m.protected(slots)
	progress.note("the partition is nearly full: removing releases that no role needs first")
	if s == m.State {
		if _, err := m.ESP.Retire(keep); err != nil {
			return err
		}
	}
	if err := e.removeSnapshots(ctx, keep); err != nil {
		return err
	}
	if _, err := s.GC(ctx, keep); err != nil {
		return err
	}
	if have, err = free(s.Dir()); err != nil || have >= need+reserve {
		return err
	}
	return refuse("%s free where the image's new layers need about %s: use a smaller image, or install anew with a larger partition", mib(have), mib(need+reserve))
}

// dropUnused removes the layers that an upgrade which failed has left behind.
func (m *Machine) dropUnused(ctx context.Context, s *store.Store, cause error) error {
	slots, err := m.ESP.Slots()
	if err != nil {
		return cause
	}
	keep := ids(slots)
	if s == m.State {
		keep = append(keep, m.booted())
	}
	_, _ = s.GC(context.WithoutCancel(ctx), keep) // the cause is what matters; gc tries again
	return cause
}

// explain says what to do about errors that a person can do something about.
func (m *Machine) explain(err error) error {
	switch {
	case isNoSpace(err):
		return fmt.Errorf("%w: the partition is full; nothing that boots was changed. Remove files that are not Kairos's, or use a smaller image", err)
	case isReadOnly(err):
		return fmt.Errorf("%w: the disk or its file system is read-only; nothing that boots was changed. Look for errors of the disk in the kernel's log (dmesg)", err)
	}
	return err
}

// protected returns the releases that no command may touch: the one that is booted and the
// last one known good. A release that is damaged on the disk is none of these.
func (m *Machine) protected(slots Slots) []string {
	var keep []string
	if m.booted() != "" {
		keep = append(keep, m.booted())
	}
	for _, e := range slots.Entries {
		if !e.Counted && m.complete(m.State, e.ID) {
			if e.ID != m.booted() {
				keep = append(keep, e.ID)
			}
			break
		}
	}
	return keep
}

// collect removes what no role needs: entries, snapshots, releases, layers.
func (m *Machine) collect(ctx context.Context, e *engine, progress Progress) ([]string, error) {
	slots, err := m.ESP.Slots()
	if err != nil {
		return nil, err
	}
	keep := m.protected(slots)
	if active, ok := slots.Active(); ok && m.complete(m.State, active.ID) {
		keep = append(keep, active.ID)
	}
	if passive, ok := slots.Passive(); ok && len(keep) < 2 && m.complete(m.State, passive.ID) {
		keep = append(keep, passive.ID)
	}
	progress.step("collect", "")
	gone, err := m.ESP.Retire(keep)
	if err != nil {
		return gone, err
	}
	if err := m.ESP.Mirror(); err != nil {
		return gone, err
	}
	if e != nil {
		if err := e.removeSnapshots(ctx, keep); err != nil {
			return gone, err
		}
	}
	removed, err := m.State.GC(ctx, keep)
	for _, id := range removed.Releases {
		if err := m.FS.Remove(filepath.Join(m.State.Dir(), layout.FailurePath(id))); err != nil {
			return gone, err
		}
		if !slices.Contains(gone, id) {
			gone = append(gone, id)
		}
	}
	return gone, err
}

// upgradeRecovery replaces the recovery system. Its old release stays until the new one
// has its boot entry.
func (m *Machine) upgradeRecovery(ctx context.Context, img *image, r Result, progress Progress) (Result, error) {
	slots, err := m.ESP.Slots()
	if err != nil {
		return r, err
	}
	if slots.Recovery == r.Release && m.complete(m.Recovery, r.Release) {
		return m.finishRecovery(ctx, r)
	}
	need, err := needed(m.Recovery, img)
	if err != nil {
		return r, err
	}
	if have, err := free(m.Recovery.Dir()); err != nil {
		return r, err
	} else if have < need+reserve {
		return r, refuse("the recovery partition has %s free where the image's new layers need about %s: install anew with a larger one", mib(have), mib(need+reserve))
	}
	// Layers that STATE has are copied, not fetched.
	if err := copyLayers(ctx, m.State, m.Recovery, img); err != nil {
		return r, m.explain(err)
	}
	staged, err := m.stage(ctx, m.Recovery, img, progress)
	if err != nil {
		return r, m.explain(err)
	}
	if err := m.roomOnESP(ctx, staged, progress); err != nil {
		return r, err
	}
	progress.step("activate", r.Release)
	if err := m.ESP.ActivateRecovery(r.Release, staged.files); err != nil {
		return r, m.explain(err)
	}
	r.Changed, r.Version = true, staged.release.Version
	return m.finishRecovery(ctx, r)
}

// finishRecovery removes what the new recovery system does not need.
func (m *Machine) finishRecovery(ctx context.Context, r Result) (Result, error) {
	removed, err := m.Recovery.GC(ctx, []string{r.Release})
	r.Removed = removed.Releases
	if err != nil {
		return r, err
	}
	slots, err := m.ESP.Slots()
	if err != nil {
		return r, err
	}
	_, err = m.ESP.Retire(ids(slots))
	return r, errors.Join(err, m.ESP.Mirror())
}

// copyLayers copies the layers of an image that another store has.
func copyLayers(ctx context.Context, from, to *store.Store, img *image) error {
	for _, l := range img.layers {
		layer, ok, err := from.Layer(l.diffID)
		if err != nil || !ok {
			continue
		}
		f, err := from.OpenBlob(l.diffID)
		if err != nil {
			return err
		}
		_, err = to.CopyBlob(ctx, layer, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// complete says whether a store has a release with all its layers.
func (m *Machine) complete(s *store.Store, id string) bool {
	r, err := s.Release(id)
	if err != nil {
		return false
	}
	for _, l := range r.Layers {
		if have, ok, err := s.Layer(l.DiffID); err != nil || !ok || have != l {
			return false
		}
	}
	return true
}

// engine starts containerd's part, and returns the context to use it in.
func (m *Machine) engine(ctx context.Context, o UpgradeOptions, target *store.Store) (context.Context, *engine, func(error) error, error) {
	address := o.Containerd
	if address == "" && o.Source.Kind == Containerd {
		address = DaemonSocket
	}
	var e *engine
	var temp string // RemoveAll("") does nothing
	var err error
	if address != "" {
		ns := o.Namespace
		if ns == "" {
			ns = embeddedNamespace
		}
		ctx = namespaces.WithNamespace(ctx, ns)
		e, err = daemon(ctx, address)
	} else {
		dir := m.Cache
		if dir == "" { // PERSISTENT cannot be used
			if dir, err = os.MkdirTemp("", "kairos-apply-"); err != nil {
				return nil, nil, nil, err
			}
			temp = dir
		}
		e, err = embedded(filepath.Join(dir, "containerd"), filepath.Join(target.Dir(), layout.BlobsDir))
	}
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, release, err := e.withLease(ctx)
	if err != nil {
		return nil, nil, nil, errors.Join(err, e.close())
	}
	return ctx, e, func(failed error) error {
		return errors.Join(release(failed), e.close(), os.RemoveAll(temp))
	}, nil
}

func ids(s Slots) []string {
	var all []string
	for _, e := range s.Entries {
		all = append(all, e.ID)
	}
	if s.Recovery != "" {
		all = append(all, s.Recovery)
	}
	return all
}

func arch(s string) string {
	if s != "" {
		return s
	}
	return runtime.GOARCH
}
