package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/internal/blockdev"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/partition"
	"github.com/kairos-buildkit/kairos/store"
)

// ResetOptions say what to format.
type ResetOptions struct {
	OEM bool // the node's cloud-config too
	// Unattended: nobody is there who could read a new recovery key.
	Unattended bool
	Progress   Progress
}

// ResetWanted says whether the recovery system that runs is to reset the machine without asking: because the boot
// menu's entry says so or, with auto, the config, where neither the active nor the passive release has a try left. A
// release that used up its tries and was never healthy is not installed again by itself: that is refused, for it would
// go on for ever.
func (m *Machine) ResetWanted(auto bool) (bool, error) {
	if m.Boot.OnTrial() {
		return false, nil // it is here to show that it comes up
	}
	b, err := os.ReadFile(m.path("proc/cmdline"))
	if err != nil {
		return false, err
	}
	if _, ok := layout.ParseCmdline(string(b)).Get(layout.CmdlineReset); ok {
		return true, nil
	}
	if !auto {
		return false, nil
	}
	state, err := m.ESP.State()
	if err != nil {
		return false, err
	}
	if _, ok := state.Active(); ok {
		return false, nil // somebody has chosen the recovery system
	}
	if state.OnTrial(m.Boot.Release) {
		return false, refuse("reset.auto is set, but nothing was erased: the release that a reset installs, %s, used "+
			"up its tries here and was never healthy: `kairos-apply status` says why. `kairos-apply reset` "+
			"installs it all the same", m.Boot.Release)
	}
	return true, nil
}

// Reset formats STATE and PERSISTENT, from the recovery system that runs: the node has its
// release then, and nothing of what was kept. Until that is done the recovery system is the only
// one that boots.
func (m *Machine) Reset(ctx context.Context, o ResetOptions) (r api.Result, err error) {
	if m.Boot.Role != layout.RoleRecovery {
		return r, refuse("reset runs in the recovery system: restart the machine and choose it in the boot menu")
	}
	if m.Recovery == nil {
		return r, errors.New("the recovery partition cannot be mounted for copying from it")
	}
	id := m.Boot.Release
	release, err := m.Recovery.Release(id)
	if err != nil {
		return r, err
	}
	r.Release, r.Version = id, release.Version
	files, facts, err := m.bootFiles(m.Recovery, withCmdline(release, m.config().Install()), o.Progress)
	if err != nil {
		return r, err
	}
	// Before anything is erased: what /init refuses would be all that is left.
	if err := m.trusted(release, facts.anchor, facts.uki, o.Progress, layout.RoleSystem); err != nil {
		return r, err
	}
	if err := m.resettable(o); err != nil {
		return r, err
	}
	// The config is read before it may be erased.
	h := &hooks{m: m, command: "reset", config: m.nodeConfig(), progress: o.Progress}
	if err := h.before(ctx); err != nil {
		return r, err
	}
	// From here on the recovery system boots, until the new one is complete.
	if _, err := m.ESP.Retire(nil); err != nil {
		return r, err
	}
	store, done, err := storeFiles(m.Recovery, release)
	if err != nil {
		return r, err
	}
	defer done()
	content := map[string][]filetree.File{"state": store, "persistent": nil}
	if o.OEM {
		content["oem"] = nil
	}
	for _, p := range layout.Partitions() {
		list, ok := content[p.Name]
		if !ok {
			continue
		}
		o.Progress.step(api.StepPartition, p.Label)
		if e, ok := m.Boot.Encrypted[p.Name]; ok && e.UnlockedBy == "" {
			r.RecoveryKey, err = m.reencrypt(ctx, p, list, r.RecoveryKey)
		} else {
			err = m.format(ctx, p, list)
		}
		if err != nil {
			return r, fmt.Errorf("reset %s: %w", p.Label, err)
		}
	}
	if m.State, err = m.remountState(); err != nil {
		return r, err
	}
	if err := m.activate(ctx, &stagedRelease{release: release, files: files}, o.Progress); err != nil {
		return r, err
	}
	r.Changed = true
	if err := m.updateLoaders(release, o.Progress); err != nil {
		return r, err
	}
	return r, h.after(ctx)
}

// resettable refuses a reset that would make a recovery key which nobody sees.
func (m *Machine) resettable(o ResetOptions) error {
	if e, ok := m.Boot.Encrypted["persistent"]; ok && e.UnlockedBy == "" && o.Unattended {
		return refuse("%s is encrypted, and nothing has opened it: it would get a new recovery key, and nobody would "+
			"see it. Nothing was erased: type the key that it has at the recovery system's start, or run "+
			"`kairos-apply reset` there", layout.LabelPersistent)
	}
	return nil
}

// format writes a new file system to a partition.
func (m *Machine) format(ctx context.Context, p layout.Partition, files []filetree.File) error {
	if err := m.mounts.Unmount(p.Name); err != nil {
		return err
	}
	device := m.Boot.Devices[p.Name]
	if device == "" {
		return errors.New("the disk has no such partition: install again")
	}
	f, err := openExclusive(device)
	if err != nil {
		if p.Name != "state" && mountedAt(m.path(mountPoints[p.Name])) {
			return emptyDir(m.path(mountPoints[p.Name])) // the running system has it
		}
		return err
	}
	defer f.Close()
	e := disk.Ext4{Label: p.Label, Time: time.Now(), Files: files}
	rand.Read(e.UUID[:])
	if e.Size, err = blockdev.Size(f); err != nil {
		return err
	}
	image, err := e.Image()
	if err != nil {
		return err
	}
	if err := image.WriteOver(ctx, f, 0); err != nil {
		return err
	}
	return f.Sync()
}

// mountPoints are where the running system has partitions mounted.
var mountPoints = map[string]string{"persistent": layout.MountPersistent, "oem": layout.MountOEM}

func mountedAt(dir string) bool {
	var here, above unix.Stat_t
	return unix.Stat(dir, &here) == nil && unix.Stat(filepath.Dir(dir), &above) == nil && here.Dev != above.Dev
}

// emptyDir removes what is in a folder.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "lost+found" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return syncFS(dir)
}

func (m *Machine) remountState() (*store.Store, error) {
	dir, err := m.mounts.Mount("state", m.Boot.Devices["state"], "ext4")
	if err != nil {
		return nil, err
	}
	return store.NewOn(dir, m.FS), nil
}

// syncFS writes out the file system that dir is in.
func syncFS(dir string) error { return partition.Sync(dir) }
