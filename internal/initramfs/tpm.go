package initramfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/kairos-buildkit/kairos/internal/tpm"
	"github.com/kairos-buildkit/kairos/layout"
)

// tpmTimeout is how long the kernel may take to show a TPM that the firmware has told it of.
const tpmTimeout = 10 * time.Second

// openTPM opens the machine's TPM, and waits for it where the firmware says that there is one. Without one it is
// [tpm.ErrNone].
func (m *Machine) openTPM() (*tpm.TPM, error) {
	if err := m.Modules.LoadAll(layout.TPMModules()...); err != nil {
		m.Log.Info("%v", err) // another driver may be the one
	}
	for end := time.Now().Add(tpmTimeout); ; time.Sleep(20 * time.Millisecond) {
		t, err := tpm.Open("/dev")
		if err == nil {
			return t, nil
		}
		if _, told := os.Stat("/" + layout.FirmwareTPM); told != nil || !errors.Is(err, tpm.ErrNone) {
			return nil, err
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("the firmware has one, and the kernel shows none within %v: its driver "+
				"may be missing in the initrd (label %s)", tpmTimeout, layout.ImageLabelModules)
		}
	}
}

// withTPM has something done with the TPM. Where that fails it is not closed: closing would wait for a TPM that hangs.
func (m *Machine) withTPM(do func(*tpm.TPM) error) error {
	t, err := m.openTPM()
	if err != nil {
		return err
	}
	if err := do(t); err != nil {
		return err
	}
	return t.Close()
}

// floors reads what the machine's TPM holds.
func (m *Machine) floors() (f tpm.Floors, err error) {
	err = m.withTPM(func(t *tpm.TPM) error {
		f, err = t.Floors()
		return err
	})
	return f, err
}

// measures says whether somebody unseals by what this UKI is measured as: the stub has left the signatures for that.
// Without them, and so under BIOS, nothing is told to a TPM.
func measures() bool {
	_, err := os.Stat("/" + layout.InitrdPCRSignatures)
	return err == nil
}

// MeasureRole tells the TPM what the UKI starts: on a live medium, or when it cannot be told, nothing is unsealed.
// That is why a TPM that fails is no reason not to boot.
func (m *Machine) MeasureRole() error {
	m.extend(event{layout.PCRBoot, layout.PCRWord(m.Source.Boot.Role)})
	return nil
}

// MeasureRelease tells the TPM which release starts, and that /init is done: what is encrypted was unlocked before.
func (m *Machine) MeasureRelease() error {
	record, err := m.Release.Marshal()
	if err != nil {
		return err // it could not have been read
	}
	m.extend(
		event{layout.PCRSystem, layout.PCRReleaseWord(layout.SHA256(sha256.Sum256(record)))},
		event{layout.PCRBoot, layout.PCRLeave},
	)
	return nil
}

// event is a word that a PCR is extended by.
type event struct {
	number uint
	word   string
}

// extend tells the TPM all of the events: one that it does not take does not keep the others from it.
func (m *Machine) extend(events ...event) {
	if !measures() {
		return
	}
	err := m.withTPM(func(t *tpm.TPM) error {
		var failed []error
		for _, e := range events {
			if err := t.Extend(e.number, e.word); err != nil {
				failed = append(failed, err)
				continue
			}
			m.Log.Info("PCR %d of the TPM: %s", e.number, e.word)
		}
		return errors.Join(failed...)
	})
	if err != nil && !errors.Is(err, tpm.ErrNone) {
		m.Log.Crit("the TPM is not told what was started: %v", err)
	}
}
