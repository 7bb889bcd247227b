package node

import (
	"os"

	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/loader/grub"
	"github.com/kairos-buildkit/kairos/loader/sdboot"
	"github.com/kairos-buildkit/kairos/node/partition"
)

// newESP returns the ESP that is mounted at a directory.
func newESP(dir, firmware string, d *durable.FS, names loader.Names, variables efivars.Dir) *loader.ESP {
	p := &loader.ESP{Volume: &loader.Volume{Dir: dir, FS: d, Names: names}}
	p.Decides, p.Copy = loaders(firmware, variables)
	return p
}

// loaders returns the boot loader that a firmware starts, and the other one.
func loaders(firmware string, variables efivars.Dir) (decides, other loader.Loader) {
	if firmware == layout.FirmwareBIOS {
		return grub.Loader{}, sdboot.Loader{Variables: variables}
	}
	return sdboot.Loader{Variables: variables}, grub.Loader{}
}

// espMount is where a command has the ESP mounted.
type espMount struct {
	mounts *partition.Set
	device string
}

func (m espMount) OnDevice(do func(fat.Disk) error) error {
	return m.mounts.OnDevice("efi", func(f *os.File) error { return do(f) })
}

func (m espMount) Busy() bool { return partition.Busy(m.device) }
