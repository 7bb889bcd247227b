package provision

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os/exec"
	"path"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
)

// keepIdentity gives the node a machine-id and SSH host keys of its own at its first boot, and the same ones at all
// others.
func (s *System) keepIdentity() error {
	const kept = layout.PersistentState + "/machine-id"
	if err := s.borrowIdentity(kept); err != nil {
		return err
	}
	id, err := s.root.ReadFile(kept, 64)
	if err != nil || len(strings.TrimSpace(string(id))) != 32 {
		id = newMachineID()
		if err := s.write(kept, id, 0o444); err != nil {
			return fmt.Errorf("machine-id: %w", err)
		}
	}
	if err := s.write("/etc/machine-id", id, 0o444); err != nil {
		return fmt.Errorf("machine-id: %w", err)
	}
	return s.hostKeys()
}

// liveIdentity gives a live system that has a config what its templates may name: a machine-id, which the image's init
// would make later. It then takes that for no first boot, at which some distributions make SSH host keys.
func (s *System) liveIdentity() error {
	if len(s.line("etc/machine-id")) != 32 {
		if err := s.write("/etc/machine-id", newMachineID(), 0o444); err != nil {
			return fmt.Errorf("machine-id: %w", err)
		}
	}
	if !s.exists("/usr/bin/ssh-keygen") || !s.exists("/etc/ssh") || !s.running() {
		return nil
	}
	if out, err := exec.Command("ssh-keygen", "-A").CombinedOutput(); err != nil { // those that are missing
		return fmt.Errorf("SSH host keys: ssh-keygen: %w: %s", err, out)
	}
	return nil
}

func newMachineID() []byte {
	b := make([]byte, 16)
	rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // a version 4 UUID, as machine-id(5) wants
	return []byte(hex.EncodeToString(b) + "\n")
}

// borrowIdentity has a recovery system be who the node is otherwise: the same machine-id, and the same SSH host keys,
// so that who logs in to repair it is not told that it is another machine.
func (s *System) borrowIdentity(machineID string) error {
	if s.Persistent == nil {
		return nil
	}
	state := strings.Trim(strings.TrimPrefix(layout.PersistentState, layout.MountPersistent), "/")
	if id, err := bounded.ReadFile(s.Persistent, path.Join(state, "machine-id"), 64); err == nil {
		if err := s.write(machineID, id, 0o444); err != nil {
			return fmt.Errorf("machine-id: %w", err)
		}
	}
	dir := path.Join(state, layout.StateName("/etc/ssh"))
	files, _ := fs.ReadDir(s.Persistent, dir) // none, or damaged: it gets keys of its own
	keys := map[string][]byte{}
	for _, f := range files {
		if f.Type().IsRegular() && strings.HasPrefix(f.Name(), hostKeyPrefix) {
			if b, err := bounded.ReadFile(s.Persistent, path.Join(dir, f.Name()), 64<<10); err == nil {
				keys[f.Name()] = b
			}
		}
	}
	if len(keys) == 0 {
		return nil
	}
	if err := s.removeHostKeys(); err != nil {
		return err
	}
	for name, b := range keys {
		mode := fs.FileMode(0o600)
		if strings.HasSuffix(name, ".pub") {
			mode = 0o644
		}
		if err := s.write("/etc/ssh/"+name, b, mode); err != nil {
			return fmt.Errorf("SSH host keys: %w", err)
		}
	}
	return s.write(hostKeysMade, nil, 0o644)
}

const hostKeyPrefix = "ssh_host_"

// removeHostKeys removes those of the image, which other nodes have too.
func (s *System) removeHostKeys() error {
	dir, err := s.root.Dir("/etc/ssh")
	if err != nil {
		return fmt.Errorf("SSH host keys: %w", err)
	}
	defer dir.Close()
	names, err := dir.Names()
	if err != nil {
		return fmt.Errorf("SSH host keys: %w", err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, hostKeyPrefix) {
			if err := dir.Remove(name); err != nil {
				return fmt.Errorf("SSH host keys: %w", err)
			}
		}
	}
	return nil
}

// hostKeysMade is there when the node has SSH host keys of its own.
const hostKeysMade = layout.PersistentState + "/ssh-host-keys-made"

// hostKeys makes SSH host keys at the node's first boot.
func (s *System) hostKeys() error {
	if s.exists(hostKeysMade) || !s.exists("/usr/bin/ssh-keygen") || !s.running() {
		return nil
	}
	if err := s.removeHostKeys(); err != nil {
		return err
	}
	if out, err := exec.Command("ssh-keygen", "-A").CombinedOutput(); err != nil {
		return fmt.Errorf("SSH host keys: ssh-keygen: %w: %s", err, out)
	}
	dir, err := s.root.Dir("/etc/ssh")
	if err != nil {
		return fmt.Errorf("SSH host keys: %w", err)
	}
	defer dir.Close()
	if err := dir.SyncFS(); err != nil {
		return fmt.Errorf("SSH host keys: %w", err)
	}
	return s.write(hostKeysMade, nil, 0o644)
}
