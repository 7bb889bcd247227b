package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/blockdev"
	"github.com/kairos-buildkit/kairos/layout"
)

// EjectAtTheEnd has the live medium leave its drive when the machine restarts or powers off, where it is one that
// leaves. Everything that runs here runs from it: so systemd does that last of all, by [Eject].
func (m *Machine) EjectAtTheEnd() error {
	if m.Boot.Role != layout.RoleLive || !blockdev.IsDrive(m.Boot.Medium) {
		return nil
	}
	if err := os.WriteFile(m.path(layout.RunEject), []byte(m.Boot.Medium+"\n"), 0o600); err != nil {
		return fmt.Errorf("eject the medium later: %w", err)
	}
	return nil
}

// Eject ejects the medium that EjectAtTheEnd has chosen, if it did.
func Eject(root string) error {
	m := &Machine{Root: root}
	b, err := os.ReadFile(m.path(layout.RunEject))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return blockdev.Eject(strings.TrimSpace(string(b)))
}
