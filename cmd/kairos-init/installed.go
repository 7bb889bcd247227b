package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// installedDisk finds the disk whose ESP the machine was booted from, and mounts the store that the
// boot entry is for. A disk that only looks alike is never taken.
func (m *machine) installedDisk(o origin) (*source, error) {
	var table *gpt
	boot := o.boot
	device, seen, err := m.devices.find(func(device string) bool {
		t, err := readDisk(device)
		if err != nil || !t.has(o.esp) {
			return false
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
		return nil, fmt.Errorf("no disk with the partition %s, from which the machine was booted, within %v (%s): check that the image's kernel has the driver for it", o.esp, deviceTimeout, looked)
	}
	m.boot = boot // so that a failure can be reported
	if boot.Trial && boot.Firmware == "uefi" {
		// The kernel's last words survive a panic in the firmware's memory, for the next boot to report.
		if err := m.modules.load("efi_pstore"); err != nil {
			m.log.detail("%v", err)
		}
	}
	if boot.Role == layout.RoleSystem {
		if err := growLast(device, table, "persistent"); err != nil {
			m.log.info("%v", err) // the node works in the space that it has
		}
	}
	name := "state"
	if boot.Role == layout.RoleRecovery {
		name = "recovery"
	}
	if boot.Devices[name] == "" {
		return nil, fmt.Errorf("the disk %s has no partition named %s", device, name)
	}
	if err := m.modules.load("ext4"); err != nil {
		return nil, err
	}
	if err := mount(boot.Devices[name], storeMount, "ext4", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, err
	}
	return &source{boot: boot, device: boot.Devices[name], store: storeMount}, nil
}

// partitionDevices returns the device of each of our partitions that the kernel has found.
func partitionDevices(disk string, t *gpt) map[string]string {
	devices := map[string]string{}
	base := disk[strings.LastIndexByte(disk, '/')+1:]
	entries, _ := os.ReadDir("/sys/class/block/" + base)
	byNumber := map[string]string{}
	for _, e := range entries {
		if b, err := os.ReadFile("/sys/class/block/" + base + "/" + e.Name() + "/partition"); err == nil {
			byNumber[strings.TrimSpace(string(b))] = "/dev/" + e.Name()
		}
	}
	for _, p := range t.parts {
		if d := byNumber[fmt.Sprint(p.number)]; d != "" {
			devices[p.name] = d
		}
	}
	return devices
}
