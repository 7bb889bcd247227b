package node

import (
	"errors"
	"runtime"

	"github.com/kairos-buildkit/kairos/internal/tpm"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/trust"
)

// floors reads the lowest epochs that the machine's TPM holds.
func (m *Machine) floors() (tpm.Floors, error) {
	t, err := m.openTPM(m.path("dev"))
	if err != nil {
		return tpm.Floors{}, err
	}
	f, err := t.Floors()
	if err = errors.Join(err, t.Close()); err != nil {
		return tpm.Floors{}, err
	}
	return f, nil
}

// withFloor returns an anchor that asks for what its /init asks for on this machine, of what starts in roles: the
// TPM's floor is one, too. A TPM that cannot be read holds nothing, as for /init; the status says so.
func (m *Machine) withFloor(a *trust.Anchor, roles ...string) *trust.Anchor {
	if a == nil || !a.TPM {
		return a
	}
	f, err := m.floors()
	if err != nil {
		return a
	}
	return floored(a, f, roles...)
}

// floored returns an anchor with the floors of roles.
func floored(a *trust.Anchor, f tpm.Floors, roles ...string) *trust.Anchor {
	higher := *a
	for _, role := range roles {
		higher.Epoch = max(higher.Epoch, f.Of(role))
	}
	return &higher
}

// everywhere are the roles that an installation gives a release.
var everywhere = []string{layout.RoleSystem, layout.RoleRecovery}

// roleOf is the role that a release starts in from a store.
func (m *Machine) roleOf(s *store.Store) string {
	if s != nil && s == m.Recovery {
		return layout.RoleRecovery
	}
	return layout.RoleSystem
}

// raised raises the floor by a release of a store that has come up, and says what went wrong. It is no error: the
// release is as good without, and the next start does it.
func (m *Machine) raised(s *store.Store, id string) (problems []string) {
	if s == nil {
		return nil
	}
	r, err := s.Release(id)
	if err == nil {
		err = m.raiseFloor(r, m.roleOf(s))
	}
	if err != nil {
		return []string{printable(err.Error())}
	}
	return nil
}

// raiseFloor has the TPM hold the epoch of a release that has come up, or that takes the recovery system's place, as
// the lowest of its role. Only what the running system's keys have signed raises it, for nothing lowers it again.
func (m *Machine) raiseFloor(r layout.Release, role string) error {
	a, err := m.anchor()
	if err != nil || a == nil || !a.TPM || a.Warn {
		return err
	}
	if _, err := a.Check(r, runtime.GOARCH); err != nil {
		return err
	}
	t, err := m.openTPM(m.path("dev"))
	if errors.Is(err, tpm.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	want := tpm.Floors{System: r.Epoch}
	if role == layout.RoleRecovery {
		want = tpm.Floors{Recovery: r.Epoch}
	}
	_, err = t.Raise(want)
	return errors.Join(err, t.Close())
}
