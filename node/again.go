package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/internal/blockdev"
	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
)

// InstalledError says that an unattended installation was not made, since a disk holds a system already. Nothing was
// changed.
type InstalledError struct {
	Device  string
	Release string // the medium's
	Version string
	// Start: the installed system is healthy, and the firmware will start it when the machine is restarted.
	Start bool
	// Why is what keeps the machine from going on without a person, with what to do. Empty where Start is set.
	Why string
}

func (e *InstalledError) Error() string {
	name := "release " + e.Release
	if e.Version != "" {
		name += " (" + e.Version + ")"
	}
	if e.Start {
		return fmt.Sprintf("%s is installed on %s already: nothing was installed, the machine restarts from its disk",
			name, e.Device)
	}
	return fmt.Sprintf("%s was not installed: %s; `install: {force: true}` in the medium's config installs over it, "+
		"and so does `kairos-apply install`", name, e.Why)
}

// found is what the disk holds that an unattended installation would erase, and what can be done about it. A medium
// that stays in its drive starts after the installation, too: it must neither install a second time nor restart for
// ever.
type found struct {
	device string
	medium string // the release that would be installed
	state  loader.State
	err    error // why the state is not known
	// chooses: the firmware lets us choose what starts next.
	chooses bool
	// restarted: the medium has restarted the machine from this disk before, and came up again.
	restarted bool
}

// again decides whether the machine is restarted from the disk, or why it waits for a person.
func (f found) again() (start bool, why string) {
	_, good := f.state.Active()
	const takeOut = "take the medium out and restart the machine"
	switch {
	case f.err != nil:
		return false, fmt.Sprintf("%s holds a Kairos system that cannot be read (%v)", f.device, f.err)
	case !f.own():
		return false, fmt.Sprintf("%s holds a Kairos system that is not from this medium", f.device)
	case !good:
		return false, fmt.Sprintf(
			"it is on %s already, and all its tries failed: %s, and its recovery system starts", f.device, takeOut)
	case !f.chooses:
		return false, fmt.Sprintf("it is on %s already: %s, and it starts from there", f.device, takeOut)
	case f.restarted:
		return false, fmt.Sprintf("it is on %s already, and the firmware started this medium again in place of "+
			"the disk: %s, or put the disk first in the firmware's setup", f.device, takeOut)
	}
	return true, ""
}

// own says whether the disk's system came from the medium.
func (f found) own() bool { return f.state.Has(f.medium) || f.state.Recovery == f.medium }

// notAgain returns an *[InstalledError] where the chosen disk holds a system already, or one of the others the
// medium's.
func (m *Machine) notAgain(chosen Device, others []Device, release layout.Release) error {
	for _, d := range append([]Device{chosen}, others...) {
		esp, ok := installedESP(d)
		if !ok {
			continue
		}
		f := found{device: d.Path, medium: release.ID(), restarted: m.restartedFromDisk(), chooses: true}
		if f.state, f.err = readStateFrom(esp, m.Boot.Firmware); d.Path != chosen.Path && !f.own() {
			continue
		}
		e := &InstalledError{Device: d.Path, Release: release.ID(), Version: release.Version}
		if e.Start, e.Why = f.again(); e.Start {
			// What the firmware starts is changed when everything else speaks for it.
			if err := errors.Join(m.preferDisk(d.Path, release.Arch), m.rememberRestart()); err != nil {
				f.chooses = false
				e.Start, e.Why = f.again()
				e.Why += fmt.Sprintf(" (%v)", err)
			}
		}
		return e
	}
	return nil
}

// installedESP returns the device of the ESP of a disk with all our partitions, which it has only when an installation
// is complete.
func installedESP(d Device) (string, bool) {
	esp := ""
	names := []string{}
	for _, p := range blockdev.Partitions(d.Path) {
		names = append(names, p.Name)
		if p.Name == "efi" {
			esp = p.Device
		}
	}
	for _, p := range layout.Partitions() {
		if !slices.Contains(names, p.Name) {
			return "", false
		}
	}
	return esp, esp != ""
}

// readStateFrom reads what boots from an ESP that is not mounted.
func readStateFrom(device, firmware string) (loader.State, error) {
	f, err := os.Open(device)
	if err != nil {
		return loader.State{}, err
	}
	defer f.Close()
	v, err := fat.Open(f)
	if err != nil {
		return loader.State{}, fmt.Errorf("read %s: %w", device, err)
	}
	decides, other := loaders(firmware, efivars.System)
	s, err := loader.Read(loader.In(v.FS()), decides, other)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(s.All()) == 0 {
		return s, errors.New("it has no boot entries")
	}
	return s, err
}
