package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/luks"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/internal/blockdev"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/partition"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/verity"
)

// InstallOptions say what to install where.
type InstallOptions struct {
	// Config has no errors; nil is an empty one.
	Config *config.Config
	// Source is an image to install in place of the medium's; empty: what the config says.
	Source string
	// MaxContent is as in [UpgradeOptions], where an image is installed in place of the medium's.
	MaxContent int64
	// RawConfig is kept on OEM as it is.
	RawConfig []byte
	// Device is "auto" or a path; empty: what the config says.
	Device string
	// Confirm is asked before anything on the disk is changed. Nil: go on.
	Confirm func(Device) error
	// Confirmed says that a person has named the disk, or says yes to it: what uses it ends.
	Confirmed bool
	Progress  Progress
	// Passphrase opens what is encrypted, beside the recovery key; empty: nothing does.
	Passphrase []byte
	// Unattended: nobody has confirmed anything. A disk that holds a system already is then an *[InstalledError],
	// unless the config has install.force.
	Unattended bool
}

// Install installs the live medium's release: as the active and as the recovery system. The
// disk has no partition table until everything else is on it.
func (m *Machine) Install(ctx context.Context, o InstallOptions) (r api.InstallResult, err error) {
	if m.Boot.Role != layout.RoleLive {
		return r, refuse(
			"this system is installed already: use upgrade, or reset from the recovery system; " +
				"install runs on a live medium",
		)
	}
	if o.Config == nil {
		o.Config = config.Merge()
	}
	if err := checkInstall(o.Config); err != nil {
		return r, err
	}
	c := o.Config.Install()
	if err := encryptable(c, o.Unattended); err != nil {
		return r, err
	}
	if len(o.Passphrase) > 0 && len(c.Encrypted) == 0 {
		return r, refuse("there is a passphrase, and nothing to be encrypted: write install.encrypted_partitions")
	}
	if o.Source == "" {
		o.Source = c.Source
	}
	if o.Device == "" {
		o.Device = c.Device
	}
	h := &hooks{m: m, command: "install", config: m.imageConfig().With(o.Config), env: c.Env, progress: o.Progress}
	if o.Unattended {
		if err := m.awaitNetwork(ctx, []string{o.Source, c.RecoverySource}, o.Progress); err != nil {
			return r, err
		}
	}
	if strings.HasPrefix(o.Device, scriptPrefix) { // the program looks at what is there
		if err := m.awaitUdev(ctx); err != nil {
			return r, err
		}
	}
	if o.Device, err = scriptDevice(ctx, o.Device, c.Env); err != nil {
		return r, err
	}
	device, err := m.awaitDisk(ctx, o.Device, o.Unattended, o.Progress)
	if err != nil {
		return r, err
	}
	r.Device = device.Path
	medium := store.New(m.bootedStore())
	release, err := medium.Release(m.Boot.Release)
	if err != nil {
		return r, err
	}
	r.Release, r.Version = release.ID(), release.Version
	if o.Unattended && !c.Force {
		var others []Device
		if o.Device == "" || o.Device == "auto" {
			if others, err = m.devices(); err != nil {
				return r, err
			}
		}
		if err := m.notAgain(device, others, release); err != nil {
			return r, err
		}
	}
	if o.Confirm != nil {
		if err := o.Confirm(device); err != nil {
			return r, err
		}
	}
	if err := h.before(ctx); err != nil {
		return r, err
	}
	if r, err = m.install(ctx, device, medium, release, o, r); err != nil {
		return r, err
	}
	return r, h.after(ctx)
}

// install is Install, after all questions.
func (m *Machine) install(
	ctx context.Context,
	device Device,
	medium *store.Store,
	release layout.Release,
	o InstallOptions,
	r api.InstallResult,
) (_ api.InstallResult, err error) {
	c := o.Config.Install()
	open := openExclusive
	if o.Confirmed {
		open = func(path string) (*os.File, error) { return openConfirmed(path, o.Progress) }
	}
	f, err := open(device.Path)
	if err != nil {
		return r, err
	}
	defer f.Close()
	var devices map[string]string
	var volumes []volume
	if len(c.Encrypted) > 0 {
		r.RecoveryKey = luks.NewRecoveryKey()
	}
	if c.NoFormat {
		devices, err = existing(device)
	} else {
		devices, volumes, err = m.partition(ctx, f, device, medium, release, r.RecoveryKey, o)
	}
	if err != nil {
		return r, fmt.Errorf("install to %s: %w", device.Path, err)
	}
	f.Close() // its partitions are mounted next
	// The medium may stay where it is. That the firmware does not take it is no failure of the installation.
	if err := m.preferDisk(device.Path, release.Arch); err != nil && !errors.Is(err, errNoVariables) {
		o.Progress.note(fmt.Sprintf("the firmware does not start %s by itself: %v", device.Path, err))
	}
	if !c.NoFormat && o.Source == "" && c.RecoverySource == "" {
		return r, nil
	}
	encrypted, done, err := openVolumes(volumes, devices)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, done()) }()
	err = m.withInstalled(devices, encrypted, release.ID(), func(n *Machine) error {
		if c.NoFormat {
			if err := n.adopt(ctx, medium, release, o); err != nil {
				return err
			}
		}
		// The recovery system first: what it is replaced from is the medium's, and that one boots.
		if c.RecoverySource != "" {
			ref, err := source.Parse(c.RecoverySource)
			if err != nil {
				return err
			}
			up := UpgradeOptions{Source: ref, Recovery: true, MaxContent: o.MaxContent, Progress: o.Progress}
			if _, err := n.upgrade(ctx, up, nil); err != nil {
				return err
			}
		}
		if o.Source == "" {
			return nil
		}
		ref, err := source.Parse(o.Source)
		if err != nil {
			return err
		}
		up, err := n.upgrade(ctx, UpgradeOptions{Source: ref, MaxContent: o.MaxContent, Progress: o.Progress}, nil)
		r.Release, r.Version = up.Release, up.Version
		return err
	})
	return r, err
}

// partition writes a new disk.
func (m *Machine) partition(
	ctx context.Context,
	f *os.File,
	device Device,
	medium *store.Store,
	release layout.Release,
	recovery string,
	o InstallOptions,
) (map[string]string, []volume, error) {
	size, err := blockdev.Size(f)
	if err != nil {
		return nil, nil, err
	}
	sectorSize, err := blockdev.SectorSize(f)
	if err != nil {
		return nil, nil, err
	}
	if err := installable(f, sectorSize, m.Boot.Firmware); err != nil {
		return nil, nil, err
	}
	system, done, err := m.system(medium, release, o)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	system.Size, system.SectorSize = size, sectorSize
	d, err := system.Disk()
	if err != nil {
		return nil, nil, err
	}
	image, err := d.Image()
	var small *disk.SizeError
	if errors.As(err, &small) {
		return nil, nil, refuse("%v: use a larger disk, or smaller partitions", small)
	}
	if err != nil {
		return nil, nil, err
	}
	o.Progress.step(api.StepPartition, device.Path)
	w, err := newTableLast(f)
	if err != nil {
		return nil, nil, err
	}
	if err := image.WriteOver(ctx, &watched{w: w, progress: o.Progress, object: device.Path, total: image.Size},
		0); err != nil {
		return nil, nil, err
	}
	_, placed, err := d.Place()
	if err != nil {
		return nil, nil, err
	}
	volumes, err := encryptPartitions(ctx, f, system, placed, recovery, o)
	if err != nil {
		return nil, nil, err
	}
	if err := w.commit(); err != nil {
		return nil, nil, err
	}
	devices, err := readPartitions(f, device.Path)
	return devices, volumes, err
}

// watched reports how much is written.
type watched struct {
	w        io.WriterAt
	progress Progress
	object   string
	done     int64
	total    int64
	last     time.Time
}

func (w *watched) WriteAt(p []byte, off int64) (int, error) {
	n, err := w.w.WriteAt(p, off)
	w.done += int64(n)
	if w.progress != nil && time.Since(w.last) > time.Second {
		w.last = time.Now()
		w.progress(Event{Step: api.StepWrite, Object: w.object, Done: w.done, Total: w.total})
	}
	return n, err
}

// system describes the disk that holds the medium's release.
func (m *Machine) system(
	medium *store.Store,
	release layout.Release,
	o InstallOptions,
) (s disk.System, done func() error, err error) {
	files, closeFiles, err := storeFiles(medium, release)
	if err != nil {
		return s, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeFiles())
		}
	}()
	boot, facts, err := m.bootFiles(medium, withCmdline(release, o.Config.Install()), o.Progress)
	if err != nil {
		return s, nil, err
	}
	if err := m.acceptable(release, boot.UKI, facts, o.Progress, everywhere...); err != nil {
		return s, nil, err
	}
	if len(o.Config.Install().Encrypted) > 0 && !facts.encryption {
		return s, nil, refuse("install.encrypted_partitions: the medium's image does not open them: %s", noEncryption)
	}
	s = disk.System{
		Release: release, Store: files, UKI: boot.UKI, Kernel: boot.Kernel, Initrd: boot.Initrd, Cmdline: boot.Cmdline,
		Name: boot.Name,
		Time: time.Now(), Seed: make([]byte, 32),
		// On trial from its first boot: if it does not come up, the recovery system does.
	}
	rand.Read(s.Seed)
	tree, err := medium.Tree(release.Layers)
	if err != nil {
		return s, nil, err
	}
	defer tree.Close()
	p, err := programs(tree, release)
	if err != nil {
		return s, nil, err
	}
	s.SystemdBoot = p.SystemdBoot
	if hasGrub(tree) {
		if s.BootImage, err = readImageFile(tree, path.Join(layout.ImageGrubDir, "boot.img"), maxText); err != nil {
			return s, nil, err
		}
		if s.CoreImage, err = readImageFile(tree, path.Join(layout.ImageGrubDir, "core.img"), maxText); err != nil {
			return s, nil, err
		}
	}
	if err := s.Configure(o.Config.Install(), o.RawConfig); err != nil {
		return s, nil, refuse("%v", err)
	}
	return s, closeFiles, nil
}

// storeFiles lists the files of a store with one release. The bytes are verified when they
// are read: a damaged medium ends the installation.
func storeFiles(from *store.Store, r layout.Release) ([]filetree.File, func() error, error) {
	b, err := r.Marshal()
	if err != nil {
		return nil, nil, err
	}
	files := []filetree.File{filetree.Bytes(layout.ReleasePath(r.ID()), b)}
	if len(r.Signatures) > 0 {
		files = append(files, filetree.Bytes(layout.ReleaseSignaturesPath(r.ID()), r.Signatures))
	}
	if len(r.BootSignatures) > 0 {
		files = append(files, filetree.Bytes(layout.ReleaseBootSignaturesPath(r.ID()), r.BootSignatures))
	}
	var open []io.Closer
	done := func() error {
		var errs []error
		for _, c := range open {
			errs = append(errs, c.Close())
		}
		return errors.Join(errs...)
	}
	seen := map[layout.Digest]bool{}
	for _, l := range r.Layers {
		if seen[l.DiffID] {
			continue
		}
		seen[l.DiffID] = true
		f, err := from.OpenBlob(l.DiffID)
		if err != nil {
			done()
			return nil, nil, err
		}
		open = append(open, f)
		files = append(
			files,
			filetree.File{
				Path: layout.BlobPath(l.DiffID),
				Size: verity.TotalSize(l.Size),
				Open: func() (io.ReadCloser, error) {
					data, err := verity.NewReader(f, l.Size, l.RootHash)
					if err != nil {
						return nil, fmt.Errorf("layer %s: %w", l.DiffID, err)
					}
					// Reading the data has checked the tree behind it.
					return io.NopCloser(io.MultiReader(io.NewSectionReader(data, 0, l.Size),
						io.NewSectionReader(f, l.Size, verity.TotalSize(l.Size)-l.Size))), nil
				},
			},
			filetree.Bytes(
				layout.SidecarPath(l.DiffID),
				layout.Sidecar{RootHash: l.RootHash, HashOffset: l.Size}.Marshal(),
			),
		)
	}
	return files, done, nil
}

// existing returns the partitions of a disk that is kept as it is.
func existing(d Device) (map[string]string, error) {
	found := map[string]string{}
	for _, p := range blockdev.Partitions(d.Path) {
		found[p.Name] = p.Device
	}
	for _, p := range layout.Partitions() {
		if found[p.Name] == "" {
			return nil, refuse("no-format is set, but %s has no partition named %s", d.Path, p.Name)
		}
		if encrypted, err := isEncrypted(found[p.Name]); err != nil {
			return nil, err
		} else if encrypted {
			return nil, refuse("no-format is set, and %s of %s is encrypted: an installation would not write its "+
				"config there. Install without no-format, or upgrade the system where it runs", p.Label, d.Path)
		}
	}
	return found, nil
}

// withInstalled runs do on the system that is on a disk's partitions, as if it ran.
func (m *Machine) withInstalled(
	devices map[string]string,
	encrypted map[string]layout.Encrypted,
	id string,
	do func(*Machine) error,
) (err error) {
	n, err := open(
		layout.Boot{
			Role: layout.RoleSystem, Release: id, Firmware: m.Boot.Firmware, Devices: devices, Encrypted: encrypted,
		},
		m.Root,
		m.FS,
		&partition.Set{},
	)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	n.running = store.New(m.bootedStore())
	return do(n)
}

// adopt installs the medium's release onto partitions that are kept.
func (m *Machine) adopt(ctx context.Context, medium *store.Store, release layout.Release, o InstallOptions) error {
	for _, s := range []*store.Store{m.State, m.Recovery} {
		if s == nil {
			return errors.New("the recovery partition cannot be mounted: install without no-format")
		}
	}
	// What an interrupted run of this very command has left is no other system.
	slots, err := m.ESP.State()
	if err != nil {
		return err
	}
	if active, ok := slots.Active(); ok && active.ID != release.ID() && !o.Config.Install().Force {
		return refuse("no-format is set, and the disk has a system that boots, the release %s. Nothing was changed: "+
			"set install.force to install over it, or upgrade it where it runs", active.ID)
	}
	bootFiles, facts, err := m.bootFiles(medium, withCmdline(release, o.Config.Install()), nil)
	if err != nil {
		return err
	}
	if err := m.acceptable(release, bootFiles.UKI, facts, o.Progress, everywhere...); err != nil {
		return err
	}
	for _, s := range []*store.Store{m.State, m.Recovery} {
		if err := copyRelease(ctx, medium, s, release, o.Progress); err != nil {
			return m.explain(err)
		}
	}
	if m.OEM != "" {
		files, err := disk.OEMFiles(o.Config.Install(), o.RawConfig)
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := copyFile(m, f); err != nil {
				return err
			}
		}
	}
	files, _, err := m.bootFiles(m.State, withCmdline(release, o.Config.Install()), o.Progress)
	if err != nil {
		return err
	}
	staged := &stagedRelease{release: release, files: files}
	if err := m.roomOnESP(ctx, staged, o.Progress); err != nil {
		return err
	}
	if err := m.ESP.ActivateRecovery(release.ID(), files); err != nil {
		return err
	}
	if err := m.activate(ctx, staged, o.Progress); err != nil {
		return err
	}
	if err := m.updateLoaders(release, o.Progress); err != nil {
		return m.explain(err)
	}
	_, err = m.finish(ctx, nil, release.ID(), o.Progress)
	return err
}

func copyFile(m *Machine, f filetree.File) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return m.FS.WriteFile(filepath.Join(m.OEM, f.Path), b, 0o600)
}

// copyRelease copies a release with its layers from one store to another.
func copyRelease(ctx context.Context, from, to *store.Store, r layout.Release, progress Progress) error {
	var layers []layout.Layer
	for _, l := range r.Layers {
		progress.step(api.StepCopy, l.DiffID.Short())
		f, err := from.OpenBlob(l.DiffID)
		if err != nil {
			return err
		}
		layer, err := to.CopyBlob(ctx, l, f)
		f.Close()
		if err != nil {
			return err
		}
		layers = append(layers, layer)
	}
	r.Layers = layers
	return to.AddRelease(r)
}
