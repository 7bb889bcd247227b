package medium

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/disk/gpt"
	"github.com/kairos-buildkit/kairos/internal/blockdev"
	"github.com/kairos-buildkit/kairos/internal/initramfs/devices"
	"github.com/kairos-buildkit/kairos/internal/initramfs/firstboot"
	"github.com/kairos-buildkit/kairos/internal/mount"
	"github.com/kairos-buildkit/kairos/layout"
)

// installedDisk finds the disk whose ESP the machine was booted from, and mounts the store that the
// boot entry is for. A disk that only looks alike is never taken.
func (f *Finder) installedDisk(o origin) (Source, error) {
	var table *gpt.Table
	s := Source{Boot: o.boot}
	boot := &s.Boot
	device, seen, err := f.Devices.Find(func(device string) bool {
		t, err := gpt.ReadDevice(device)
		if err != nil || !t.Has(o.esp) {
			return false
		}
		if t.Damage != gpt.Sound {
			f.heal(device, t)
		}
		table = t
		boot.Devices = partitionDevices(device, t)
		// The kernel announces the disk when all its partitions are there.
		return boot.Devices["efi"] != ""
	})
	if err != nil {
		looked := "no disk has appeared"
		if len(seen) > 0 {
			looked = "looked at " + strings.Join(seen, ", ")
		}
		return s, fmt.Errorf(
			"no disk with the partition %s, from which the machine was booted, within %v (%s): "+
				"check that the image's kernel has the driver for it",
			o.esp,
			devices.Timeout,
			looked,
		)
	}
	chosen, err := f.started(
		device,
		fmt.Sprintf("the partition %s, from which the machine was booted", o.esp),
		func(device string) bool {
			t, err := gpt.ReadDevice(device)
			return err == nil && t.Has(o.esp)
		},
	)
	if err != nil {
		return s, err
	}
	if chosen != device {
		device = chosen
		if table, err = gpt.ReadDevice(device); err != nil {
			return s, err
		}
		if table.Damage != gpt.Sound {
			f.heal(device, table)
		}
	}
	if err := f.adapt(device, table); err != nil {
		return s, err
	}
	boot.Devices = partitionDevices(device, table)
	if boot.Trial && boot.Firmware == "uefi" {
		// The kernel's last words survive a panic in the firmware's memory, for the next boot to report.
		if err := f.Modules.Load("efi_pstore"); err != nil {
			f.Log.Detail("%v", err)
		}
	}
	if boot.Role == layout.RoleSystem {
		if err := gpt.GrowLast(device, table, "persistent"); err != nil {
			f.Log.Info("%v", err) // the node works in the space that it has
		}
	}
	name := "state"
	if boot.Role == layout.RoleRecovery {
		name = "recovery"
	}
	if boot.Devices[name] == "" {
		return s, fmt.Errorf("the disk %s has no partition named %s", device, name)
	}
	if err := f.Modules.Load("ext4"); err != nil {
		return s, err
	}
	if name == "state" {
		f.growStore(boot.Devices[name])
	}
	if err := mountStore(boot.Devices[name], "ext4", ""); err != nil {
		return s, err
	}
	s.Device, s.Store = boot.Devices[name], storeMount
	return s, nil
}

// heal repairs a partition table that an interrupted write or a bad sector has left with one copy.
func (f *Finder) heal(device string, t *gpt.Table) {
	damage := t.Damage
	if err := gpt.Heal(device, t); err != nil {
		f.Log.Info("%v", err) // what boots with one copy, boots
		return
	}
	f.Log.Info("%s: %s: it is made good by the other", device, damage)
}

// adapt makes a disk that a raw image was written to a disk of its own, before anything of it is mounted.
func (f *Finder) adapt(device string, t *gpt.Table) error {
	d, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return nil // read-only: it stays as it is
	}
	defer d.Close()
	record, ok := firstboot.Pending(d, t)
	if !ok {
		return nil
	}
	f.Log.Info(
		"the first boot of a raw image: %s gets identifiers of its own, and partitions as large as they can be",
		device,
	)
	failed := firstboot.Adapt(d, t, record)
	if failed != nil {
		f.Log.Crit("%v", failed)
		// The image's table is there, or the new one: only the disk knows.
		read, err := gpt.ReadDevice(device)
		if err != nil {
			return errors.Join(failed, err)
		}
		*t = *read
	}
	for n := 0; ; n++ {
		err := blockdev.RereadPartitions(d)
		if err == nil {
			break
		}
		if n == rereads {
			return errors.Join(
				failed,
				err,
			) // the kernel sees other partitions than the disk has: the next start sees these
		}
		time.Sleep(100 * time.Millisecond)
	}
	if failed == nil {
		f.Log.Info("%s is the disk %s now", device, t.GUID())
	}
	return nil
}

// rereads is how often the kernel is asked while something that looks at new disks has it open.
const rereads = 50

// growStore lets STATE's file system take its partition, which the first boot of a raw image has enlarged. After an
// interrupted one the next boot goes on.
func (f *Finder) growStore(device string) {
	if small, err := blockdev.Ext4Small(device); err != nil || !small {
		return
	}
	const dir = "/" + layout.RunPrivate + "/grow"
	if err := mount.PrivateDir("/" + layout.RunPrivate); err != nil {
		f.Log.Info("%v", err)
		return
	}
	err := mount.On(device, dir, "ext4", mount.Data, "")
	if err == nil {
		err = errors.Join(blockdev.GrowExt4(dir, device), unix.Unmount(dir, 0))
	}
	if err != nil {
		f.Log.Info("%v", err) // the node works in the space that it has
	}
	os.Remove(dir)
}

// partitionDevices returns the device of each of our partitions that the kernel has found.
func partitionDevices(disk string, t *gpt.Table) map[string]string {
	byNumber, byName := map[int]string{}, map[string]string{}
	for _, p := range blockdev.Partitions(disk) {
		byNumber[p.Number] = p.Device
	}
	for _, p := range t.Partitions {
		if d := byNumber[p.Number]; d != "" {
			byName[p.Name] = d
		}
	}
	return byName
}
