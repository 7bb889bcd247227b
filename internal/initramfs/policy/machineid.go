package policy

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/durable"
)

// machineIDFile is the machine-id's name in PersistentState. The node agent reads it too.
const machineIDFile = "machine-id"

// keepMachineID gives the node its machine-id before the image's init looks for it (machine-id(5)): at
// the first boot a new one, then always the same, whatever release is booted.
func (p *policy) keepMachineID(state string) error {
	kept := filepath.Join(state, machineIDFile)
	id, err := os.ReadFile(kept)
	if err != nil || !validMachineID(string(id)) {
		id = newMachineID()
		if err := (*durable.FS)(nil).WriteFile(kept, id, 0o444); err != nil {
			p.problem(fmt.Errorf("the machine-id is another one at the next start: %w", err))
		}
	}
	etc := sysroot + "/etc/machine-id"
	os.Remove(etc) // a link, in some images
	if err := os.WriteFile(etc, id, 0o444); err != nil {
		return fmt.Errorf("machine-id: %w", err)
	}
	return nil
}

func newMachineID() []byte {
	b := make([]byte, 16)
	rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // a version 4 UUID
	return []byte(hex.EncodeToString(b) + "\n")
}

func validMachineID(s string) bool {
	s = strings.TrimSuffix(s, "\n")
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 32 && strings.Trim(s, "0") != ""
}
