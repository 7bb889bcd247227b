package node

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/internal/tpm"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
)

// trust is what the running system asks of a release, for the status. nil: nothing.
func (m *Machine) trust() (*api.Trust, error) {
	a, err := m.anchor()
	if a == nil || err != nil {
		return nil, err
	}
	t := &api.Trust{Mode: api.TrustRequired, Threshold: a.Threshold, Epoch: a.Epoch}
	if a.Warn {
		t.Mode = api.TrustWarn
	}
	names := m.keyNames()
	if a.TPM {
		t.TPM = m.tpmStatus()
	}
	for _, k := range a.Keys {
		t.Keys = append(t.Keys, api.Key{ID: string(k.ID), Algorithm: k.Algorithm, Name: names[k.ID]})
	}
	return t, nil
}

// keyNames are the names of the keys in the running image, by their IDs: what cannot be read has no name.
func (m *Machine) keyNames() map[layout.Digest]string {
	names := map[layout.Digest]string{}
	files, err := filepath.Glob(m.path(layout.ImageTrustDir) + "/*.pub")
	if err != nil {
		return names
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		b, err := bounded.ReadAll(f, trust.MaxKeySize)
		_ = f.Close() // it was read only
		if err != nil {
			continue
		}
		if key, err := trust.ParsePublicKey(b); err == nil {
			base := filepath.Base(name)
			names[key.ID] = printable(base[:len(base)-len(".pub")])
		}
	}
	return names
}

// tpmStatus is what the TPM holds.
func (m *Machine) tpmStatus() *api.TPM {
	f, err := m.floors()
	switch {
	case errors.Is(err, tpm.ErrNone):
		return &api.TPM{State: api.TPMNone}
	case err != nil:
		return &api.TPM{State: api.TPMFailed, Problem: printable(err.Error())}
	}
	return &api.TPM{State: api.TPMReady, Epoch: f.System, Recovery: f.Recovery}
}

// signers says who has signed a release, and why the running system would refuse it in a role.
func (m *Machine) signers(r layout.Release, role string, to *api.Slot) {
	anchor, err := m.anchor()
	anchor = m.withFloor(anchor, role)
	if err != nil {
		to.Refused = err.Error()
		return
	}
	trusted := map[layout.Digest]bool{}
	if anchor != nil {
		signed, err := anchor.Check(r, runtime.GOARCH)
		if err != nil {
			to.Refused = err.Error()
		}
		for _, k := range signed {
			trusted[k.ID] = true
		}
	}
	if len(r.Signatures) == 0 {
		return
	}
	all, err := trust.ParseSignatures(r.Signatures)
	if err != nil {
		to.Refused = err.Error()
		return
	}
	names := m.keyNames()
	for _, s := range all {
		to.Signatures = append(to.Signatures, api.Signature{
			Key: api.Key{ID: string(s.Key), Algorithm: s.Algorithm, Name: names[s.Key]}, Trusted: trusted[s.Key],
		})
	}
}
