package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/internal/tpm"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/node/partition"
	"github.com/kairos-buildkit/kairos/store"
)

// Machine is the machine that is worked on: what it booted, and its partitions as far as
// they are there.
type Machine struct {
	Boot     layout.Boot
	Root     string       // the running system's root: "/" or, in tests, a folder
	State    *store.Store // nil on a live medium
	Recovery *store.Store
	ESP      *loader.ESP
	OEM      string // folder
	// Cache is a folder for what is downloaded, on PERSISTENT.
	Cache string
	FS    *durable.FS

	// running is the store of the image that runs, where Boot tells of a disk that was just installed; nil: Boot does.
	running *store.Store
	mounts  *partition.Set
	// bootFiles takes a release's boot files out of a store: readBootFiles, or a test's.
	bootFiles func(*store.Store, layout.Release, Progress) (loader.BootFiles, bootFacts, error)
	// openTPM opens the TPM in the folder of devices: tpm.Open, or a test's.
	openTPM func(dev string) (*tpm.TPM, error)
	// freeBytes says how many bytes are free in the file system that a folder is in: store.Free, or a test.
	freeBytes func(dir string) (int64, error)
}

// GCPercent is for debug.SetGCPercent in a program that stages: a layer's tree is a hundredth of it, and what may come
// to that before it is collected is a quarter of it, not as much again. A node may be small.
const GCPercent = 25

// ErrNotNode says that the running system was not booted by Kairos: a container, a
// chroot, another operating system.
var ErrNotNode = errors.New("this system was not started by Kairos: it is a container, or another operating system. " +
	"Start an installed node or a live medium and run the command there")

// ErrNotInstalled says that a command needs an installed node.
var ErrNotInstalled = errors.New(
	"this system runs from a live medium: install it with `kairos-apply install`, " +
		"start it from its disk and run the command there",
)

// ReadBoot reads what the running system was booted from. root is "/" or a folder.
func ReadBoot(root string) (layout.Boot, error) {
	b, err := os.ReadFile(filepath.Join(root, layout.RunBoot))
	if errors.Is(err, fs.ErrNotExist) {
		return layout.Boot{}, ErrNotNode
	}
	if err != nil {
		return layout.Boot{}, err
	}
	return layout.ParseBoot(b)
}

// Open returns the running machine with its partitions mounted, for writing too. It has
// to run in a mount namespace of its own: nothing that it mounts is seen elsewhere.
func Open() (*Machine, error) {
	boot, err := ReadBoot("/")
	if err != nil {
		return nil, err
	}
	return open(boot, "/", nil, &partition.Set{})
}

// OpenToBless is Open for [Machine.Bless] with a verdict. Each mount of an ext4 partition, and each change of its
// mode, is a line in the kernel's log: so it mounts the ESP alone where a healthy release only gets its tries back.
func OpenToBless(v Verdict) (*Machine, error) {
	boot, err := ReadBoot("/")
	if err != nil {
		return nil, err
	}
	if state, err := readESP(boot); err != nil || !blessesOnESP(boot, os.DirFS("/"+layout.RunStoreMount), state, v) {
		return open(boot, "/", nil, &partition.Set{})
	}
	m, err := open(boot, "/", nil, &partition.Set{}, "efi")
	if err == nil {
		m.State = store.New(m.bootedStore()) // for looking
	}
	return m, err
}

// OpenReadOnly is Open for looking only. It may run beside a command that writes.
func OpenReadOnly() (*Machine, error) {
	boot, err := ReadBoot("/")
	if err != nil {
		return nil, err
	}
	return open(boot, "/", nil, &partition.Set{ReadOnly: true})
}

// open mounts the partitions that only names, or all of them.
func open(
	boot layout.Boot,
	root string,
	d *durable.FS,
	on *partition.Set,
	only ...string,
) (_ *Machine, err error) {
	m := &Machine{
		Boot: boot, Root: root, FS: d, mounts: on,
		bootFiles: readBootFiles, openTPM: tpm.Open, freeBytes: store.Free,
	}
	if boot.Role == layout.RoleLive {
		return m, nil
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	paths := map[string]string{}
	for _, p := range layout.Partitions() {
		device := boot.Devices[p.Name]
		if device == "" || p.FS == "" || len(only) > 0 && !slices.Contains(only, p.Name) {
			continue
		}
		if p.Name == "persistent" && boot.Persistent != "" {
			continue // damaged: left as it is
		}
		dir, err := m.mounts.Mount(p.Name, device, p.FS)
		switch {
		case err == nil:
			paths[p.Name] = dir
		case p.Name == "efi", p.Name == "state" && boot.Role == layout.RoleSystem:
			return nil, err
		default:
			// Damaged, maybe: no reason not to repair the rest.
		}
	}
	if paths["efi"] == "" {
		return nil, errors.New("the disk's partition efi was not found: this is no installed node")
	}
	if p := paths["state"]; p != "" {
		m.State = store.NewOn(p, m.FS)
	}
	if p := paths["recovery"]; p != "" {
		m.Recovery = store.NewOn(p, m.FS)
	}
	switch p := paths["persistent"]; {
	case p != "":
		m.Cache = filepath.Join(p, ".kairos")
	case boot.Persistent == layout.PersistentInMemory && boot.Role == layout.RoleSystem:
		m.Cache = filepath.Join(m.path(layout.MountPersistent), ".kairos")
	}
	m.OEM = paths["oem"]
	m.ESP = newESP(paths["efi"], boot.Firmware, m.FS,
		fat.Mounted{Mount: espMount{m.mounts, boot.Devices["efi"]}}, m.variables())
	return m, nil
}

// Close unmounts what Open mounted.
func (m *Machine) Close() error {
	if m.mounts == nil {
		return nil
	}
	return m.mounts.Close()
}

// installed returns an error that says what to do on a machine that is not installed.
func (m *Machine) installed() error {
	switch {
	case m.Boot.Role == layout.RoleLive:
		return ErrNotInstalled
	case m.State == nil:
		return errors.New(
			"the state partition cannot be mounted: it is damaged. Format it with `kairos-apply reset` in the " +
				"recovery system",
		)
	case m.ESP == nil:
		return ErrNotInstalled
	}
	return nil
}

// booted returns the id of the release on STATE that runs, or "".
func (m *Machine) booted() string {
	if m.Boot.Role == layout.RoleSystem {
		return m.Boot.Release
	}
	return ""
}

// path returns a path of the running system.
func (m *Machine) path(name string) string { return filepath.Join(m.Root, name) }
