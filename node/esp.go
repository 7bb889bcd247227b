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

// espNames changes names below the file system, which is unmounted for that moment.
type espNames struct {
	mounts *partition.Set
	device string
}

func (n espNames) edit(do func(*fat.Volume) error) error {
	return n.mounts.OnDevice("efi", func(f *os.File) error {
		v, err := fat.Open(f)
		if err != nil {
			return err
		}
		return do(v)
	})
}

func (n espNames) Rename(dir, from, to string) error {
	return n.edit(func(v *fat.Volume) error { return v.Rename(dir, from, to) })
}

func (n espNames) Exchange(dir, temp, final string) error {
	return n.edit(func(v *fat.Volume) error { return v.Exchange(dir, temp, final) })
}

func (n espNames) Remove(dir, name string) error {
	return n.edit(func(v *fat.Volume) error { return v.Remove(dir, name) })
}

func (n espNames) Reclaim() error {
	return n.edit(func(v *fat.Volume) error {
		if partition.Busy(n.device) {
			return nil // a file that is being written there may have no name yet
		}
		_, err := v.Reclaim()
		return err
	})
}
