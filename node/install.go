package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/verity"
)

// InstallOptions say what to install where.
type InstallOptions struct {
	Config Config
	// RawConfig is kept on OEM as it is.
	RawConfig []byte
	// Device is "auto" or a path; empty: what the config says.
	Device string
	// Confirm is asked before anything on the disk is changed. Nil: go on.
	Confirm  func(Device) error
	Progress Progress
}

// InstallResult is what an installation did.
type InstallResult struct {
	Device  string `json:"device"`
	Release string `json:"release"`
	Version string `json:"version,omitempty"`
}

// Install installs the live medium's release: as the active and as the recovery system. The
// disk has no partition table until everything else is on it.
func (m *Machine) Install(ctx context.Context, o InstallOptions) (r InstallResult, err error) {
	if m.Boot.Role != layout.RoleLive {
		return r, refuse("this system is installed already: use upgrade, or reset from the recovery system; install runs on a live medium")
	}
	c := o.Config.Install
	if o.Device == "" {
		o.Device = c.Device
	}
	device, err := chooseDevice(o.Device, m.Boot.Medium)
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
	if o.Confirm != nil {
		if err := o.Confirm(device); err != nil {
			return r, err
		}
	}
	f, err := openExclusive(device.Path)
	if err != nil {
		return r, err
	}
	defer f.Close()
	var devices map[string]string
	if c.NoFormat {
		devices, err = existing(device)
	} else {
		devices, err = m.partition(ctx, f, device, medium, release, o)
	}
	if err != nil {
		return r, fmt.Errorf("install to %s: %w", device.Path, err)
	}
	f.Close() // its partitions are mounted next
	source, err := c.source()
	if err != nil {
		return r, err
	}
	if !c.NoFormat && source.Ref == "" {
		return r, nil
	}
	return r, m.withInstalled(devices, release.ID(), func(n *Machine) error {
		if c.NoFormat {
			if err := n.adopt(ctx, medium, release, o); err != nil {
				return err
			}
		}
		if source.Ref == "" {
			return nil
		}
		up, err := n.Upgrade(ctx, UpgradeOptions{Source: source, Progress: o.Progress})
		r.Release, r.Version = up.Release, up.Version
		return err
	})
}

// partition makes the disk anew.
func (m *Machine) partition(ctx context.Context, f *os.File, device Device, medium *store.Store, release layout.Release, o InstallOptions) (map[string]string, error) {
	size, err := deviceSize(f)
	if err != nil {
		return nil, err
	}
	system, done, err := m.system(medium, release, o)
	if err != nil {
		return nil, err
	}
	defer done()
	system.Size = size
	d, err := system.Disk()
	if err != nil {
		return nil, err
	}
	image, err := d.Image()
	var small *disk.SizeError
	if errors.As(err, &small) {
		return nil, refuse("%v: use a larger disk, or smaller partitions", small)
	}
	if err != nil {
		return nil, err
	}
	o.Progress.step("partition", device.Path)
	w, err := newTableLast(f)
	if err != nil {
		return nil, err
	}
	if err := image.WriteOver(ctx, &watched{w: w, progress: o.Progress, object: device.Path, total: image.Size}, 0); err != nil {
		return nil, err
	}
	if err := w.commit(); err != nil {
		return nil, err
	}
	return readPartitions(f, device.name)
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
		w.progress(Event{Step: "write", Object: w.object, Done: w.done, Total: w.total})
	}
	return n, err
}

// system describes the disk that holds the medium's release.
func (m *Machine) system(medium *store.Store, release layout.Release, o InstallOptions) (s disk.System, done func() error, err error) {
	files, done, err := storeFiles(medium, release)
	if err != nil {
		return s, nil, err
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	boot, _, err := m.bootFiles(medium, withCmdline(release, o.Config), o.Progress)
	if err != nil {
		return s, nil, err
	}
	s = disk.System{
		Release: release, Store: files, UKI: boot.UKI, Kernel: boot.Kernel, Initrd: boot.Initrd, Cmdline: boot.Cmdline,
		OEM: oemFiles(o), Time: time.Now(), Seed: make([]byte, 32), Sizes: map[string]int64{},
		// On trial from its first boot: if it does not come up, the recovery system does.
	}
	rand.Read(s.Seed)
	tree, err := medium.Tree(release.Layers)
	if err != nil {
		return s, nil, err
	}
	defer tree.Close()
	if s.SystemdBoot, err = fs.ReadFile(tree, layout.ImageSystemdBoot); err != nil {
		return s, nil, err
	}
	if hasGrub(tree) {
		if s.BootImage, err = fs.ReadFile(tree, path.Join(layout.ImageGrubDir, "boot.img")); err != nil {
			return s, nil, err
		}
		if s.CoreImage, err = fs.ReadFile(tree, path.Join(layout.ImageGrubDir, "core.img")); err != nil {
			return s, nil, err
		}
	}
	for name, p := range o.Config.Install.Partitions {
		s.Sizes[name] = p.Size << 20
	}
	for _, p := range o.Config.Install.ExtraPartitions {
		s.Extra = append(s.Extra, layout.Partition{Name: p.Name, Label: p.Label, Type: layout.TypeLinux, FS: p.FS, Size: p.Size << 20})
	}
	return s, done, nil
}

// withCmdline adds the config's words for the kernel's command line to a release's settings,
// as far as making boot files is concerned.
func withCmdline(r layout.Release, c Config) layout.Release {
	extra := c.Install.GrubOptions["extra_cmdline"]
	if extra == "" {
		return r
	}
	labels := map[string]string{}
	for k, v := range r.Labels {
		labels[k] = v
	}
	labels[layout.ImageLabelCmdline] = layout.ParseCmdline(labels[layout.ImageLabelCmdline] + " " + extra).String()
	r.Labels = labels
	return r
}

// oemFiles are the config, and what it adds to the mount policy.
func oemFiles(o InstallOptions) []disk.File {
	var files []disk.File
	if len(o.RawConfig) > 0 {
		f := disk.Bytes(OEMConfig, o.RawConfig)
		f.Mode = 0o600
		files = append(files, f)
	}
	mounts := layout.Mounts{Bind: o.Config.Install.BindMounts, Ephemeral: o.Config.Install.EphemeralMounts}
	if len(mounts.Bind)+len(mounts.Ephemeral) > 0 {
		files = append(files, disk.Bytes(layout.OEMMounts, mounts.Marshal()))
	}
	return files
}

// storeFiles lists the files of a store with one release. The bytes are verified when they
// are read: a damaged medium ends the installation.
func storeFiles(from *store.Store, r layout.Release) ([]disk.File, func() error, error) {
	b, err := r.Marshal()
	if err != nil {
		return nil, nil, err
	}
	files := []disk.File{disk.Bytes(layout.ReleasePath(r.ID()), b)}
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
		files = append(files,
			disk.File{Path: layout.BlobPath(l.DiffID), Size: verity.TotalSize(l.Size), Open: func() (io.ReadCloser, error) {
				data, err := verity.NewReader(f, l.Size, l.RootHash)
				if err != nil {
					return nil, fmt.Errorf("layer %s: %w", l.DiffID, err)
				}
				// Reading the data has checked the tree behind it.
				return io.NopCloser(io.MultiReader(io.NewSectionReader(data, 0, l.Size),
					io.NewSectionReader(f, l.Size, verity.TotalSize(l.Size)-l.Size))), nil
			}},
			disk.Bytes(layout.SidecarPath(l.DiffID), layout.Sidecar{RootHash: l.RootHash, HashOffset: l.Size}.Marshal()))
	}
	return files, done, nil
}

// existing returns the partitions of a disk that is kept as it is.
func existing(d Device) (map[string]string, error) {
	found := map[string]string{}
	for _, p := range partitions(d.name) {
		found[p.label] = p.path
	}
	for _, p := range layout.Partitions() {
		if found[p.Name] == "" {
			return nil, refuse("no-format is set, but %s has no partition named %s", d.Path, p.Name)
		}
	}
	return found, nil
}

// withInstalled runs do on the system that is on a disk's partitions, as if it ran.
func (m *Machine) withInstalled(devices map[string]string, id string, do func(*Machine) error) (err error) {
	n, err := open(layout.Boot{Role: layout.RoleSystem, Release: id, Firmware: m.Boot.Firmware, Devices: devices}, m.Root, m.FS, &mounts{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	return do(n)
}

// adopt installs the medium's release onto partitions that are kept.
func (m *Machine) adopt(ctx context.Context, medium *store.Store, release layout.Release, o InstallOptions) error {
	for _, s := range []*store.Store{m.State, m.Recovery} {
		if s == nil {
			return errors.New("the recovery partition cannot be mounted: install without no-format")
		}
		if err := copyRelease(ctx, medium, s, release, o.Progress); err != nil {
			return m.explain(err)
		}
	}
	if m.OEM != "" {
		for _, f := range oemFiles(o) {
			if err := copyFile(m, f); err != nil {
				return err
			}
		}
	}
	files, _, err := m.bootFiles(m.State, withCmdline(release, o.Config), o.Progress)
	if err != nil {
		return err
	}
	staged := &stagedRelease{release, files}
	if err := m.roomOnESP(ctx, staged, o.Progress); err != nil {
		return err
	}
	if err := m.ESP.ActivateRecovery(release.ID(), files); err != nil {
		return err
	}
	if err := m.activate(ctx, staged, o.Progress); err != nil {
		return err
	}
	_, err = m.finish(ctx, nil, release.ID(), o.Progress)
	return err
}

func copyFile(m *Machine, f disk.File) error {
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
		progress.step("copy", short(string(l.DiffID)))
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
