package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/store"
)

// Status tells what is booted and what the loader will do.
func (m *Machine) Status() (api.Status, error) {
	a := m.asks()
	if m.ESP == nil {
		s := m.newStatus(a)
		s.Booted = m.slot(os.DirFS(m.bootedStore()), m.Boot.Role, layout.Entry{ID: m.Boot.Release}, a)
		return s, nil
	}
	state, err := m.ESP.State()
	if err != nil {
		return m.newStatus(a), err
	}
	onState, onRecovery := m.slotsOf(m.State, layout.RoleSystem, a), m.slotsOf(m.Recovery, layout.RoleRecovery, a)
	return m.status(state, a, onState, onRecovery), nil
}

func (m *Machine) newStatus(a asked) api.Status {
	s := api.Status{
		Schema:         api.Schema,
		Mode:           api.ModeLive,
		Firmware:       m.Boot.Firmware,
		ConfigProblems: m.statusProblems(),
	}
	switch m.Boot.Role {
	case layout.RoleSystem:
		s.Mode = api.ModeInstalled
	case layout.RoleRecovery:
		s.Mode = api.ModeRecovery
	}
	if m.Boot.Persistent == layout.PersistentInMemory {
		s.Persistent = api.PersistentInMemory
	}
	for name, e := range m.Boot.Encrypted {
		if s.Encrypted == nil {
			s.Encrypted = map[string]string{}
		}
		s.Encrypted[layout.LabelOf(name)] = e.UnlockedBy
	}
	var err error
	if s.Trust, err = a.trust(); err != nil {
		s.Problems = append(s.Problems, printable(err.Error()))
	}
	if s.SecureBoot, err = m.secureBoot(); err != nil {
		s.Problems = append(s.Problems, printable(err.Error()))
	}
	for _, p := range m.Boot.Problems {
		s.Problems = append(s.Problems, printable(p))
	}
	if p := m.persistentFull(); p != "" {
		s.Problems = append(s.Problems, p)
	}
	return s
}

// persistentLeast is what has to be free on PERSISTENT, in bytes and inodes: below that, programs fail.
const (
	persistentLeast       = 16 << 20
	persistentLeastInodes = 64
)

// persistentFull says that PERSISTENT is full, or nothing.
func (m *Machine) persistentFull() string {
	var st unix.Statfs_t
	if m.Boot.Role != layout.RoleSystem || unix.Statfs(m.path(layout.MountPersistent), &st) != nil {
		return ""
	}
	return fullPersistent(int64(st.Bavail)*st.Bsize, int64(st.Ffree), int64(st.Files))
}

func fullPersistent(bytes, inodes, ofInodes int64) string {
	switch {
	case bytes < persistentLeast:
		return fmt.Sprintf("PERSISTENT is full (%s free): what is to be kept may be lost. Remove what is not needed; "+
			"`du -x -h -d 2 %s` shows what is large", mib(bytes), layout.MountPersistent)
	case ofInodes > 0 && inodes < persistentLeastInodes:
		return fmt.Sprintf(
			"PERSISTENT has room for %d more files: what is to be kept may be lost. Remove what is not needed "+
				"below %s",
			inodes,
			layout.MountPersistent,
		)
	}
	return ""
}

// slots tells of the release of a boot entry. Nil: its partition cannot be read.
type slots func(layout.Entry) *api.Slot

func (m *Machine) slotsOf(s *store.Store, role string, a asked) slots {
	if s == nil {
		return nil
	}
	return func(e layout.Entry) *api.Slot { return m.slot(os.DirFS(s.Dir()), role, e, a) }
}

// status is the status of an installed node.
func (m *Machine) status(state loader.State, a asked, onState, onRecovery slots) api.Status {
	s, b := m.newStatus(a), m.Boot
	if state.Recovery != "" && onRecovery != nil {
		s.Recovery = onRecovery(layout.Entry{ID: state.Recovery})
	}
	if s.Mode == api.ModeRecovery {
		s.Booted = s.Recovery
	}
	if t := state.Trial; t.ID != "" && onRecovery != nil {
		s.RecoveryTrial = &api.RecoveryTrial{State: api.TrialPending, Slot: *onRecovery(t)}
		switch {
		case t.Blessed():
			s.RecoveryTrial.State = api.TrialPassed
		case b.OnTrial() && b.Release == t.ID:
			s.RecoveryTrial.State = api.TrialRunning
		case t.Bad():
			s.RecoveryTrial.State = api.TrialFailed
		}
		if s.Mode == api.ModeRecovery && b.Release == t.ID {
			s.Booted = &s.RecoveryTrial.Slot
		}
	} else if m.State != nil {
		s.RecoveryTrial = failedTrial(os.DirFS(m.State.Dir()))
	}
	if onState == nil {
		return s
	}
	if e, ok := state.Active(); ok {
		s.Active = onState(e)
	}
	if e, ok := state.Passive(); ok {
		s.Passive = onState(e)
	}
	for _, e := range state.Failed() {
		s.Failed = append(s.Failed, *onState(e))
	}
	if s.Mode == api.ModeInstalled {
		s.Booted = onState(layout.Entry{ID: b.Release, Counted: b.Trial})
	}
	for _, e := range state.Entries {
		if s.Mode == api.ModeInstalled && e.ID == b.Release {
			s.Booted = onState(e)
			break
		}
	}
	return s
}

// bootedStore is the folder of the store that the running system was booted from.
func (m *Machine) bootedStore() string {
	if m.Boot.Role == layout.RoleLive {
		return filepath.Join(m.path(layout.RunStoreMount), layout.LiveRoot)
	}
	return m.path(layout.RunStoreMount)
}

func (m *Machine) slot(dir fs.FS, role string, e layout.Entry, a asked) *api.Slot {
	s := store.View{FS: dir}
	out := &api.Slot{Release: e.ID, Blessed: e.Blessed(), TriesLeft: int(e.Left), TriesUsed: int(e.Done)}
	r, err := s.Release(e.ID)
	if err != nil {
		out.Problem = err.Error()
		if errors.Is(err, fs.ErrNotExist) {
			out.Problem = "its release.json is missing"
		}
	}
	out.Version, out.Image, out.Epoch = r.Version, r.Image, r.Epoch
	if err == nil {
		a.signers(r, role, out)
		out.Accepted = acceptance(dir, e.ID)
	}
	for _, l := range r.Layers {
		if have, ok, err := s.Layer(l.DiffID); err == nil && (!ok || have != l) {
			out.Problem = fmt.Sprintf("its layer %s is missing or incomplete", l.DiffID)
		}
	}
	if b, err := fs.ReadFile(dir, layout.FailurePath(e.ID)); err == nil {
		reason, log, _ := strings.Cut(string(b), "\n")
		out.Failure = &api.Failure{Reason: printable(reason), Log: printable(log)}
	}
	return out
}

// printable removes what could change a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r == '�' {
			return -1
		}
		return r
	}, s)
}
