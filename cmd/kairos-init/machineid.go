package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// machineIDFile is the machine-id's name in PersistentState. The node agent reads it too.
const machineIDFile = "machine-id"

// keepMachineID gives the node its machine-id before the image's init looks for it (machine-id(5)): at
// the first boot a new one, then always the same, whatever release is booted.
func keepMachineID(state string) error {
	kept := filepath.Join(state, machineIDFile)
	id, err := os.ReadFile(kept)
	if err != nil || !validMachineID(string(id)) {
		id = newMachineID()
		if err := writeDurable(kept, id, 0o444); err != nil {
			return fmt.Errorf("machine-id: %w", err)
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

// writeDurable writes a file that is complete or not there after a power cut.
func writeDurable(name string, b []byte, perm os.FileMode) error {
	temp := name + ".tmp"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
