package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	"github.com/tonistiigi/go-archvariant"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/node/fetch"
	"github.com/kairos-buildkit/kairos/store"
)

// UpgradeOptions say what to upgrade to.
type UpgradeOptions struct {
	Source   source.Ref
	Recovery bool // the recovery system instead of the active one
	// NoTrial replaces the recovery system at once: else the new one is started once before the old one goes.
	NoTrial bool
	// UnlessFailed refuses a release that used up its tries here, and is still known for that.
	UnlessFailed bool
	// Release refuses an image of another release than this id: a tag may have moved since it was resolved.
	// Empty: any.
	Release string
	// StageOnly has the release fetched and verified, and leaves what boots next as it is: the next upgrade to it
	// takes no download. The stages around an upgrade do not run.
	StageOnly bool
	// Containerd is the address of a running daemon that does the fetching. Empty: its parts in
	// this process.
	Containerd string
	Namespace  string // of the daemon; empty: "kairos"
	Registry   registry.Options
	Arch       string // empty: this machine's
	// MaxContent bounds the bytes of the image's new layers in all, uncompressed and with their files' holes. 0: what
	// [store.MaxContent] makes of the partition's free space.
	MaxContent int64
	Progress   Progress
}

// Upgrade stages an image and makes it the release that boots next, on trial. What is
// booted and what was last known good stays.
//
// The stages that the cloud-config has around an upgrade run where one is to be made.
func (m *Machine) Upgrade(ctx context.Context, o UpgradeOptions) (r api.Result, err error) {
	h := &hooks{m: m, command: "upgrade", config: m.nodeConfig(), progress: o.Progress}
	r, err = m.upgrade(ctx, o, h)
	if err != nil || !r.Changed {
		return r, err
	}
	return r, h.after(ctx)
}

// upgrade is Upgrade; hooks are those of the command that it is part of, nil where these are run elsewhere.
func (m *Machine) upgrade(ctx context.Context, o UpgradeOptions, h *hooks) (r api.Result, err error) {
	if err := m.installed(); err != nil {
		return r, err
	}
	target, err := m.target(o)
	if err != nil {
		return r, err
	}
	ctx, e, done, err := m.engine(ctx, o, target)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, done(err)) }()

	img, err := m.image(ctx, e, o)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	r.Release, r.Version, r.Recovery = layout.ReleaseID(img.ConfigDigest), img.Version(), o.Recovery
	if err := m.checkID(img.ConfigDigest); err != nil {
		return r, err
	}
	if o.Release != "" && o.Release != r.Release {
		return r, refuse("the image is release %s, and was to be %s: its tag has moved, or names an image for "+
			"another CPU", r.Release, o.Release)
	}
	if o.Recovery {
		return m.upgradeRecovery(ctx, e, img, r, h, o)
	}
	slots, err := m.ESP.State()
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
	if err := readableBefore(m.State, img); err != nil {
		return r, err
	}
	if err := m.roomToFetch(ctx, e, m.State, o, img); err != nil {
		return r, err
	}
	if !o.StageOnly {
		if err := h.before(ctx); err != nil {
			return r, err
		}
	}
	if err := m.makeRoom(ctx, m.State, img, slots, e, o.Progress); err != nil {
		return r, err
	}
	staged, err := m.stage(ctx, e, m.State, img, o.MaxContent, o.Progress)
	if err != nil {
		return r, m.explain(m.dropUnused(ctx, m.State, err))
	}
	if _, err := e.CommitSnapshots(ctx, r.Release, staged.release.Layers); err != nil {
		o.Progress.note(fmt.Sprintf("the layers are not visible as containerd's snapshots: %v", err))
	}
	r.Version, r.Transfer = staged.release.Version, staged.transfer
	if o.StageOnly {
		return r, nil
	}
	if err := m.activate(ctx, staged, o.Progress); err != nil {
		_ = e.RemoveSnapshots(context.WithoutCancel(ctx), slots.IDs()) // the error above is what matters
		return r, m.explain(m.dropUnused(ctx, m.State, err))
	}
	r.Changed = true
	r.Removed, err = m.finish(ctx, e, r.Release, o.Progress)
	return r, err
}

// target returns the store that an upgrade writes to.
func (m *Machine) target(o UpgradeOptions) (*store.Store, error) {
	switch {
	case !o.Recovery:
		return m.State, nil
	case m.Recovery == nil:
		return nil, errors.New("the recovery partition cannot be mounted: `kairos-apply reset` formats it")
	case m.Boot.Role == layout.RoleRecovery:
		return nil, refuse("the recovery system runs: start the active one, then upgrade recovery from there")
	}
	return m.Recovery, nil
}

// checkID refuses an image whose release would have the id of another one, here or in the recovery system: entries and
// boot files on the ESP are named by it.
func (m *Machine) checkID(config layout.Digest) error {
	for _, s := range []*store.Store{m.State, m.Recovery} {
		if s == nil {
			continue
		}
		var collision *store.CollisionError
		if err := s.CheckID(config); errors.As(err, &collision) {
			return refuse(
				"%v: nothing was changed. Find out where the image comes from; any change to its config, "+
					"such as a label, gives it another ID",
				err,
			)
		}
	}
	return nil
}

// authFiles are where a node has its credentials for registries.
var authFiles = []string{"/etc/kairos/auth.json", layout.MountOEM + "/auth.json", "/root/.docker/config.json"}

// image opens the image to upgrade to: one for this machine's CPU.
func (m *Machine) image(ctx context.Context, e *fetch.Engine, o UpgradeOptions) (*source.Image, error) {
	return m.open(ctx, o, func(ctx context.Context, ref source.Ref, where source.Options) (*source.Image, error) {
		return e.Image(ctx, ref, where, fetch.Progress(o.Progress))
	})
}

// open opens an image by means of from, and refuses one that is not for this machine or that its policy does not
// accept.
func (m *Machine) open(
	ctx context.Context,
	o UpgradeOptions,
	from func(context.Context, source.Ref, source.Options) (*source.Image, error),
) (*source.Image, error) {
	platform := platforms.Format(o.platform())
	where := source.Options{Platform: platform, Registry: o.Registry, Temp: m.Cache}
	if where.Registry.AuthFiles == nil {
		where.Registry.AuthFiles = authFiles
	}
	img, err := from(ctx, o.Source, where)
	var unfit *image.UnfitError
	switch {
	case errors.As(err, &unfit) && unfit.Platform:
		return nil, refuse("%v: build or push the image for %s", err, platform)
	case errors.As(err, &unfit):
		return nil, refuse("%v", err)
	case err != nil:
		return nil, err
	}
	if err := img.Check(); err != nil {
		return nil, errors.Join(refuse("image %s: %v", o.Source, err), img.Close())
	}
	if err := m.allow(ctx, o.Source, img, where.Registry); err != nil {
		return nil, errors.Join(err, img.Close())
	}
	return img, nil
}

// platform is this machine's, with the variant that its CPU has.
func (o UpgradeOptions) platform() platforms.Platform {
	p := platforms.DefaultSpec()
	p.OSVersion, p.OSFeatures = "", nil
	if p.Architecture == "amd64" {
		p.Variant = archvariant.AMD64Variant()
	}
	if o.Arch != "" && o.Arch != p.Architecture {
		p.Architecture, p.Variant = o.Arch, ""
	}
	return p
}

// finish does what follows on the commit: that it takes a restart, and what is not
// needed any more. An interrupted run may have left it to the next one.
func (m *Machine) finish(ctx context.Context, e *fetch.Engine, id string, progress Progress) ([]string, error) {
	if err := m.wantRestart(id != m.booted()); err != nil {
		return nil, err
	}
	return m.collect(ctx, e, progress)
}

// activate makes a staged release boot next.
func (m *Machine) activate(ctx context.Context, s *stagedRelease, progress Progress) error {
	if err := m.roomOnESP(ctx, s, progress); err != nil {
		return err
	}
	progress.step(api.StepActivate, s.release.ID())
	return m.ESP.Activate(s.release.ID(), s.files)
}

// roomOnESP makes sure that the boot files fit, at the cost of releases that nobody needs.
func (m *Machine) roomOnESP(ctx context.Context, s *stagedRelease, progress Progress) error {
	need := s.files.Size() + 1<<20
	have, err := m.freeBytes(m.ESP.Dir)
	if err != nil || have >= need {
		return err
	}
	slots, err := m.ESP.State()
	if err != nil {
		return err
	}
	progress.note("the ESP is nearly full: removing releases that no role needs first")
	if _, err := m.ESP.Retire(m.protected(slots)); err != nil {
		return err
	}
	if have, err = m.freeBytes(m.ESP.Dir); err != nil || have >= need {
		return err
	}
	return refuse(
		"the ESP has %s free, the boot files take %s: remove files from it that are not Kairos's",
		mib(have),
		mib(need),
	)
}

// makeRoom makes sure that an image's missing layers fit. Only if they do not, it removes
// what no role needs before the new release is there.
func (m *Machine) makeRoom(
	ctx context.Context,
	s *store.Store,
	img *source.Image,
	slots loader.State,
	e *fetch.Engine,
	progress Progress,
) error {
	need, err := needed(s, img)
	if err != nil {
		return err
	}
	have, err := m.freeBytes(s.Dir())
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
	if err := e.RemoveSnapshots(ctx, keep); err != nil {
		return err
	}
	if _, err := s.GC(ctx, keep); err != nil {
		return err
	}
	if have, err = m.freeBytes(s.Dir()); err != nil || have >= need+reserve {
		return err
	}
	return refuse(
		"%s free where the image's new layers need about %s: use a smaller image, "+
			"or install again with a larger partition",
		mib(have),
		mib(need+reserve),
	)
}

// dropUnused removes the layers that an upgrade which failed has left behind. One that was interrupted leaves them to
// the next one.
func (m *Machine) dropUnused(ctx context.Context, s *store.Store, cause error) error {
	if errors.As(cause, new(*fetch.InterruptedError)) || ctx.Err() != nil {
		return cause
	}
	slots, err := m.ESP.State()
	if err != nil {
		return cause
	}
	keep := slots.IDs()
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
		return fmt.Errorf(
			"%w: the partition is full; nothing that boots was changed. Remove files that are not Kairos's, "+
				"or use a smaller image",
			err,
		)
	case isReadOnly(err):
		return fmt.Errorf(
			"%w: the disk or its file system is read-only; nothing that boots was changed. "+
				"Look for errors of the disk in the kernel's log (dmesg)",
			err,
		)
	}
	return err
}

// protected returns the releases that no command may touch: the one that is booted and the
// last one known good. A release that is damaged on the disk is none of these.
func (m *Machine) protected(slots loader.State) []string {
	var keep []string
	if m.booted() != "" {
		keep = append(keep, m.booted())
	}
	for _, e := range slots.Entries {
		if e.Blessed() && !e.Bad() && m.complete(m.State, e.ID) {
			if e.ID != m.booted() {
				keep = append(keep, e.ID)
			}
			break
		}
	}
	return keep
}

// kept returns the releases on STATE that a role needs.
func (m *Machine) kept(slots loader.State) []string {
	keep := m.protected(slots)
	if active, ok := slots.Active(); ok && !slices.Contains(keep, active.ID) && m.complete(m.State, active.ID) {
		keep = append(keep, active.ID)
	}
	if passive, ok := slots.Passive(); ok && len(keep) < 2 && m.complete(m.State, passive.ID) {
		keep = append(keep, passive.ID)
	}
	return keep
}

// collect removes what no role needs: entries, snapshots, releases, layers.
func (m *Machine) collect(ctx context.Context, e *fetch.Engine, progress Progress) ([]string, error) {
	slots, err := m.ESP.State()
	if err != nil {
		return nil, err
	}
	keep := m.kept(slots)
	progress.step(api.StepCollect, "")
	gone, err := m.ESP.Retire(keep)
	if err != nil {
		return gone, err
	}
	if err := m.ESP.Mirror(); err != nil {
		return gone, err
	}
	if e != nil {
		if err := e.RemoveSnapshots(ctx, keep); err != nil {
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

// upgradeRecovery replaces the recovery system. Its old release stays until the new one was read back from the disk,
// and has been started once where it can be: see [Machine.settleRecovery].
func (m *Machine) upgradeRecovery(
	ctx context.Context,
	e *fetch.Engine,
	img *source.Image,
	r api.Result,
	h *hooks,
	o UpgradeOptions,
) (api.Result, error) {
	if err := m.settleRecovery(ctx); err != nil {
		return r, err
	}
	if o.UnlessFailed {
		if err := m.refuseFailedRecovery(r); err != nil {
			return r, err
		}
	}
	slots, err := m.ESP.State()
	if err != nil {
		return r, err
	}
	if slots.Trial.ID == r.Release && slots.Recovery != r.Release && !o.NoTrial && m.complete(m.Recovery, r.Release) {
		return m.tryAgain(ctx, r, o.Progress)
	}
	if slots.Trial.ID != "" {
		if err := m.dropTrial(ctx); err != nil {
			return r, err
		}
		slots.Trial = layout.Entry{}
	}
	if slots.Recovery == r.Release && m.complete(m.Recovery, r.Release) {
		if err := m.repairRecovery(ctx, r.Release, o.Progress); err != nil {
			return r, m.explain(err)
		}
		return m.finishRecovery(ctx, r)
	}
	if err := readableBefore(m.Recovery, img); err != nil {
		return r, err
	}
	if err := h.before(ctx); err != nil {
		return r, err
	}
	need, err := needed(m.Recovery, img)
	if err != nil {
		return r, err
	}
	have, err := m.freeBytes(m.Recovery.Dir())
	if err == nil && have < need+reserve && slots.Recovery != "" && m.complete(m.Recovery, slots.Recovery) {
		// What an interrupted run has left may be what is in the way.
		if _, err = m.Recovery.GC(ctx, []string{slots.Recovery}); err == nil {
			have, err = m.freeBytes(m.Recovery.Dir())
		}
	}
	if err != nil {
		return r, err
	} else if have < need+reserve {
		return r, refuse("the recovery partition has %s free where the image's new layers need about %s: "+
			"install again with a larger one", mib(have), mib(need+reserve))
	}
	if err := m.refuseUnsigned(ctx, m.Recovery, img); err != nil {
		return r, err
	}
	// Layers that STATE has are copied, not fetched.
	if err := copyLayers(ctx, m.State, m.Recovery, img); err != nil {
		return r, m.explain(err)
	}
	if err := m.roomToFetch(ctx, e, m.Recovery, o, img); err != nil {
		return r, err
	}
	staged, err := m.stage(ctx, e, m.Recovery, img, o.MaxContent, o.Progress)
	if err != nil {
		return r, m.explain(err)
	}
	if err := readBack(m.Recovery, staged.release); err != nil {
		err = fmt.Errorf("the recovery partition does not give back what was written, and the recovery system that "+
			"was there stays: %w: look for errors of the disk in the kernel's log (dmesg)", err)
		return r, m.dropUnused(ctx, m.Recovery, err)
	}
	if err := m.roomOnESP(ctx, staged, o.Progress); err != nil {
		return r, err
	}
	o.Progress.step(api.StepActivate, r.Release)
	if r.OnTrial, err = m.activateRecovery(slots, staged, o); err != nil {
		return r, m.explain(err)
	}
	r.Changed, r.Version, r.Transfer = true, staged.release.Version, staged.transfer
	return m.finishRecovery(ctx, r)
}

// repairRecovery makes the boot files of the recovery system those that its release has: a damaged one is found by
// nothing else before it is needed.
func (m *Machine) repairRecovery(ctx context.Context, id string, progress Progress) error {
	release, err := m.Recovery.Release(id)
	if err != nil {
		return err
	}
	files, facts, err := m.bootFiles(m.Recovery, withCmdline(release, m.config().Install()), progress)
	if err != nil {
		return err
	}
	if err := m.restorable(release, facts.anchor, facts.uki, progress); err != nil {
		return err
	}
	if err := m.roomOnESP(ctx, &stagedRelease{release: release, files: files}, progress); err != nil {
		return err
	}
	return m.ESP.ActivateRecovery(id, files)
}

// finishRecovery removes what the new recovery system does not need.
func (m *Machine) finishRecovery(ctx context.Context, r api.Result) (api.Result, error) {
	slots, err := m.ESP.State()
	if err != nil {
		return r, err
	}
	if err := m.forgetTrial(); err != nil {
		return r, err
	}
	removed, err := m.Recovery.GC(ctx, recoveryKeeps(slots))
	r.Removed = removed.Releases
	if err != nil {
		return r, err
	}
	_, err = m.ESP.Retire(slots.IDs())
	return r, errors.Join(err, m.ESP.Mirror())
}

// copied says whether an image's layer can be taken from a store. One that the image's kernel does not read is
// fetched, and converted for it.
func copied(from *store.Store, img *source.Image, id layout.Digest) (layout.Layer, bool) {
	layer, ok, err := from.Layer(id)
	if err != nil || !ok {
		return layer, false
	}
	can := formatOf(img.Config.Config.Labels)
	if can == "" {
		return layer, true
	}
	c, err := from.Compression(layer)
	return layer, err == nil && layout.CompressionRank(string(c)) <= layout.CompressionRank(can)
}

// copyLayers copies the layers of an image that another store has.
func copyLayers(ctx context.Context, from, to *store.Store, img *source.Image) error {
	for _, l := range img.Layers {
		layer, ok := copied(from, img, l.DiffID)
		if !ok {
			continue
		}
		f, err := from.OpenBlob(l.DiffID)
		if err != nil {
			return err
		}
		_, err = to.CopyBlob(ctx, layer, f)
		f.Close()
		if err != nil && (ctx.Err() != nil || isNoSpace(err) || isReadOnly(err)) {
			return err
		}
		// Else it has rotted: it is fetched.
	}
	return nil
}

// complete says whether a store has a release with all its layers.
func (m *Machine) complete(s *store.Store, id string) bool {
	return completeIn(store.View{FS: os.DirFS(s.Dir())}, id)
}

func completeIn(v store.View, id string) bool {
	r, err := v.Release(id)
	if err != nil {
		return false
	}
	for _, l := range r.Layers {
		if have, ok, err := v.Layer(l.DiffID); err != nil || !ok || have != l {
			return false
		}
	}
	return true
}

// engine starts containerd's part, and returns the context to use it in.
func (m *Machine) engine(
	ctx context.Context,
	o UpgradeOptions,
	target *store.Store,
) (context.Context, *fetch.Engine, func(error) error, error) {
	address := o.Containerd
	if address == "" && o.Source.Kind == source.Containerd {
		address = fetch.DaemonSocket
	}
	var e *fetch.Engine
	var temp string // RemoveAll("") does nothing
	var err error
	if address != "" {
		ns := o.Namespace
		if ns == "" {
			ns = fetch.Namespace
		}
		ctx = namespaces.WithNamespace(ctx, ns)
		e, err = fetch.Daemon(ctx, address)
	} else {
		dir := m.Cache
		if dir == "" { // PERSISTENT cannot be used
			if dir, err = os.MkdirTemp("", "kairos-apply-"); err != nil {
				return nil, nil, nil, err
			}
			temp = dir
		}
		e, err = fetch.Embedded(filepath.Join(dir, cacheDir), filepath.Join(target.Dir(), layout.BlobsDir))
	}
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, release, err := e.WithLease(ctx)
	if err != nil {
		return nil, nil, nil, errors.Join(err, e.Close())
	}
	return ctx, e, func(failed error) error {
		return errors.Join(release(failed), e.Close(), os.RemoveAll(temp))
	}, nil
}
