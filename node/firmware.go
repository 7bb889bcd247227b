package node

import (
	"errors"
	"fmt"

	"github.com/kairos-buildkit/kairos/disk/gpt"
	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/layout"
)

// variables are the firmware's.
func (m *Machine) variables() efivars.Dir {
	if m.Root == "/" {
		return efivars.System
	}
	return efivars.Dir(m.path(string(efivars.System)))
}

// bootDescription is how the firmware's menu calls an installed disk.
const bootDescription = "Kairos"

// errNoVariables says that BIOS has no memory for what starts next.
var errNoVariables = errors.New("BIOS firmware: what starts first is chosen in its setup")

// preferDisk has the firmware start an installed disk: next, and from then on. An entry of another disk that was there
// comes after it.
func (m *Machine) preferDisk(disk, arch string) error {
	if m.Boot.Firmware != layout.FirmwareUEFI {
		return errNoVariables
	}
	table, err := gpt.ReadDevice(disk)
	if err != nil {
		return err
	}
	e, err := bootEntry(table, arch)
	if err != nil {
		return fmt.Errorf("%s: %w", disk, err)
	}
	return m.variables().Prefer(e)
}

// bootEntry is the firmware's entry for the disk with this table.
func bootEntry(table *gpt.Table, arch string) (efivars.Entry, error) {
	program, err := layout.EFIDefaultPath(arch)
	if err != nil {
		return efivars.Entry{}, err
	}
	for _, p := range table.Partitions {
		if p.Name == "efi" {
			return efivars.Entry{
				Description: bootDescription, Partition: p.Number, First: p.First, Size: p.Last - p.First + 1,
				GUID: p.GUID, Path: program,
			}, nil
		}
	}
	return efivars.Entry{}, errors.New("there is no partition named efi")
}

// restarted is a variable that a live medium sets when it restarts the machine from its disk, and that the disk's
// system removes.
const restarted = "KairosRestartedFromMedium"

func (m *Machine) restartedFromDisk() bool {
	_, err := m.variables().Read(restarted, efivars.Kairos)
	return err == nil
}

func (m *Machine) rememberRestart() error {
	return m.variables().Write(restarted, efivars.Kairos, efivars.FromText("1"))
}

// forgetRestart is for a system that runs from the disk.
func (m *Machine) forgetRestart() error { return m.variables().Remove(restarted, efivars.Kairos) }
