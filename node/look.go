package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/internal/tpm"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/store"
)

// ErrNotKnown says that what is on a partition that is not mounted has not been looked at since the
// machine was started.
var ErrNotKnown = errors.New("a partition has not been looked at since the machine was started")

// Look is [Machine.Status] of the running system for who asks each minute: it mounts nothing, so that the kernel logs
// nothing. The ESP is read below its file system, the store that was booted is mounted anyway, and of the
// other one it tells what the last command saw. Before the first that is [ErrNotKnown], but for RECOVERY, which is
// read below its file system, too.
func Look(root string) (api.Status, error) {
	b, err := ReadBoot(root)
	if err != nil {
		return api.Status{}, err
	}
	m := &Machine{Boot: b, Root: root, openTPM: tpm.Open}
	if b.Role == layout.RoleLive {
		return m.Status()
	}
	state, err := readESP(b)
	if err != nil {
		return api.Status{}, err
	}
	known, err := m.known()
	if err != nil {
		return api.Status{}, err
	}
	here := store.New(m.bootedStore())
	if b.Role == layout.RoleSystem {
		m.State = here
	}
	a := m.asks()
	booted := m.slotsOf(here, b.Role, a)
	missing := false
	other := func(e layout.Entry) *api.Slot {
		s, ok := known[e.ID]
		if files, done := m.unmountedStore(); !ok && files != nil {
			s, ok = *m.slot(files, layout.RoleRecovery, e, a), true
			done()
		}
		missing = missing || !ok
		s.Blessed, s.TriesLeft, s.TriesUsed = e.Blessed(), int(e.Left), int(e.Done)
		return &s
	}
	var s api.Status
	if b.Role == layout.RoleRecovery {
		s = m.status(state, a, other, booted)
	} else {
		s = m.status(state, a, booted, other)
	}
	if missing {
		return s, ErrNotKnown
	}
	return s, nil
}

// readESP reads what boots from the ESP's device.
func readESP(b layout.Boot) (s loader.State, err error) {
	err = onESP(b, func(v *fat.Volume) error {
		s, err = readVolume(b, v)
		return err
	})
	return s, err
}

func readVolume(b layout.Boot, v *fat.Volume) (loader.State, error) {
	decides, other := loaders(b.Firmware, efivars.System)
	return loader.Read(loader.In(v.FS()), decides, other)
}

// onESP hands over the ESP as it is on its device, to be read.
func onESP(b layout.Boot, do func(*fat.Volume) error) error {
	device := b.Devices["efi"]
	if device == "" {
		return errors.New("the disk's partition efi was not found: this is no installed node")
	}
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	// What a mount has written of files since is on the disk, but not in the device's own cache.
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("read %s: %w", device, err)
	}
	v, err := fat.Open(f)
	if err != nil {
		return fmt.Errorf("read %s: %w", device, err)
	}
	return do(v)
}

// known reads what the last command saw on the partition that is not mounted, by release.
func (m *Machine) known() (map[string]api.Slot, error) {
	b, err := os.ReadFile(m.path(layout.RunKnown))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var known map[string]api.Slot
	if json.Unmarshal(b, &known) != nil {
		return nil, nil // as good as none
	}
	return known, nil
}

// unmountedStore reads the store that the running system has not mounted, where nobody writes to it but commands that
// end: RECOVERY's, while the active or the passive release runs. Nil: it cannot be read.
func (m *Machine) unmountedStore() (files fs.FS, done func()) {
	if m.Boot.Role != layout.RoleSystem {
		return nil, func() {}
	}
	return unmounted(m.Boot.Devices["recovery"])
}

// otherStore is the store that the running system has not mounted, as this command sees it.
func (m *Machine) otherStore() (files fs.FS, done func()) {
	s := m.Recovery
	if m.Boot.Role == layout.RoleRecovery {
		s = m.State
	}
	if s == nil {
		return m.unmountedStore()
	}
	return os.DirFS(s.Dir()), func() {}
}

// Remember keeps for [Look] what is on the partition that is not mounted otherwise.
func (m *Machine) Remember() error {
	if m.ESP == nil {
		return nil
	}
	known := map[string]api.Slot{}
	if files, done := m.otherStore(); files != nil {
		defer done()
		state, err := m.ESP.State()
		if err != nil {
			return err
		}
		role := layout.RoleRecovery
		if m.Boot.Role == layout.RoleRecovery {
			role = layout.RoleSystem
		}
		a := m.asks()
		for _, e := range state.All() {
			if (e.Seq == layout.RecoverySeq) == (m.Boot.Role == layout.RoleSystem) {
				known[e.ID] = *m.slot(files, role, e, a)
			}
		}
	}
	b, err := json.Marshal(known)
	if err != nil {
		return err
	}
	name := m.path(layout.RunKnown)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	// Whole or not at all, for who reads meanwhile.
	if err := os.WriteFile(name+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}
