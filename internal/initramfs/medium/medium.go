// Package medium finds what the machine was booted from: the volume COS_LIVE, or the disk with the very ESP that the
// boot loader came from, never one that only looks alike.
package medium

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/internal/initramfs/devices"
	"github.com/kairos-buildkit/kairos/internal/initramfs/modules"
	"github.com/kairos-buildkit/kairos/internal/initramfs/sealed"
	"github.com/kairos-buildkit/kairos/internal/mount"
	"github.com/kairos-buildkit/kairos/layout"
)

// Source is where the release comes from.
type Source struct {
	Boot   layout.Boot // Release may be empty: then it is the only one
	Device string      // that holds the store
	Store  string      // path of the mounted store
}

// Finder finds and mounts it.
type Finder struct {
	Cmdline layout.Cmdline
	Log     *console.Log
	Modules *modules.Loader
	Devices *devices.Watcher
	// Seal refuses a second device that looks like the one that was booted from; nil does not.
	Seal *sealed.Seal

	alike func() []string // what looks like it now
	what  string          // what they have in common
}

// storeMount is where the file system with the store is mounted.
const storeMount = "/" + layout.RunStoreMount

// mountStore mounts it where only root looks: a live medium holds the node's config.
func mountStore(device, fstype, options string) error {
	if err := mount.PrivateDir("/" + layout.RunPrivate); err != nil {
		return err
	}
	if err := mount.On(device, storeMount, fstype, unix.MS_RDONLY|mount.Data, options); err != nil {
		return err
	}
	if err := os.Symlink("/"+layout.RunStoreMount, "/"+layout.RunStoreLink); err != nil && !os.IsExist(err) {
		return err
	}
	return nil
}

// Find returns what the machine was booted from, with its store mounted. With an error it returns what is known until
// then.
func (f *Finder) Find() (Source, error) {
	o, err := f.readOrigin()
	if err != nil {
		return Source{Boot: o.boot}, err
	}
	if o.boot.Role == layout.RoleLive {
		return f.liveMedium(o.boot)
	}
	return f.installedDisk(o)
}
