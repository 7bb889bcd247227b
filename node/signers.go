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

// asked is what the running system asks of releases. It is read once for all that a status tells of.
type asked struct {
	anchor *trust.Anchor // nil: nothing
	err    error         // why it cannot be read
	names  map[layout.Digest]string
	floors tpm.Floors // where the anchor asks for the TPM
	noTPM  error      // why they cannot be read
}

func (m *Machine) asks() (a asked) {
	a.names = m.keyNames()
	if a.anchor, a.err = m.anchor(); a.anchor != nil && a.anchor.TPM {
		a.floors, a.noTPM = m.floors()
	}
	return a
}

// trust is that for the status. nil: nothing.
func (a asked) trust() (*api.Trust, error) {
	if a.anchor == nil || a.err != nil {
		return nil, a.err
	}
	t := &api.Trust{Mode: api.TrustRequired, Threshold: a.anchor.Threshold, Epoch: a.anchor.Epoch}
	if a.anchor.Warn {
		t.Mode = api.TrustWarn
	}
	if a.anchor.TPM {
		t.TPM = a.tpm()
	}
	for _, k := range a.anchor.Keys {
		t.Keys = append(t.Keys, api.Key{ID: string(k.ID), Algorithm: k.Algorithm, Name: a.names[k.ID]})
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

// tpm is what the TPM holds.
func (a asked) tpm() *api.TPM {
	switch {
	case errors.Is(a.noTPM, tpm.ErrNone):
		return &api.TPM{State: api.TPMNone}
	case a.noTPM != nil:
		return &api.TPM{State: api.TPMFailed, Problem: printable(a.noTPM.Error())}
	}
	return &api.TPM{State: api.TPMReady, Epoch: a.floors.System, Recovery: a.floors.Recovery}
}

// signers says who has signed a release, and why the running system would refuse it in a role.
func (a asked) signers(r layout.Release, role string, to *api.Slot) {
	if a.err != nil {
		to.Refused = a.err.Error()
		return
	}
	trusted := map[layout.Digest]bool{}
	if a.anchor != nil {
		signed, err := floored(a.anchor, a.floors, role).Check(r, runtime.GOARCH)
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
	for _, s := range all {
		to.Signatures = append(to.Signatures, api.Signature{
			Key: api.Key{ID: string(s.Key), Algorithm: s.Algorithm, Name: a.names[s.Key]}, Trusted: trusted[s.Key],
		})
	}
}
