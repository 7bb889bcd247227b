package blockdev

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// User is what uses a disk.
type User struct {
	What    string // in words
	Command string // that ends it
	// kind and object say it to [Release].
	kind, object string
}

func (u User) String() string { return u.What + ": " + u.Command }

// Kinds of users.
const (
	mountKind = "mount" // of a directory
	swapKind  = "swap"  // on a device
	dmKind    = "dm"    // a device of the device mapper, by its name
	mdKind    = "md"    // a RAID, by its device
)

// Users says what uses a disk, such as /dev/sda, or a partition of it, and by which command that ends: what is
// mounted, swap, LVM, RAID, multipath and encryption. It is empty where nothing is seen: a program may have the device
// open.
func Users(disk string) []User { return users(sysBlock, "/proc", disk) }

func users(sys, proc, disk string) []User {
	devices := []string{disk}
	for _, p := range partitions(sys, disk) {
		devices = append(devices, p.Device)
	}
	var all []User
	seen := map[string]bool{}
	for i := 0; i < len(devices); i++ { // what is above a device is looked at in its turn
		device := devices[i]
		if seen[device] {
			continue
		}
		seen[device] = true
		for _, where := range mountPoints(proc, attribute(filepath.Join(sys, kernelName(device)), "dev")) {
			all = append(all, User{device + " is mounted on " + where, "umount " + where, mountKind, where})
		}
		if swapOn(proc, device) {
			all = append(all, User{device + " is swap", "swapoff " + device, swapKind, device})
		}
		holders, _ := os.ReadDir(filepath.Join(sys, kernelName(device), "holders"))
		for _, h := range holders {
			above := devicePath(h.Name())
			devices = append(devices, above)
			// What is highest comes first: it has to end first.
			all = slices.Insert(all, 0, holder(sys, device, h.Name()))
		}
	}
	return slices.Compact(all)
}

// holder says what a device that is made of another one is.
func holder(sys, device, name string) User {
	dir := filepath.Join(sys, name)
	mapped, uuid := attribute(dir, "dm/name"), attribute(dir, "dm/uuid")
	switch {
	case strings.HasPrefix(uuid, "LVM-"):
		// A volume's name: a hyphen in a part of it is doubled.
		group, _, _ := strings.Cut(strings.ReplaceAll(mapped, "--", "\x00"), "-")
		group = strings.ReplaceAll(group, "\x00", "-")
		return User{device + " belongs to the LVM volume group " + group, "vgchange -an " + group, dmKind, mapped}
	case strings.HasPrefix(uuid, "mpath-"):
		return User{device + " is a path of the multipath device " + mapped, "multipath -f " + mapped, dmKind, mapped}
	case strings.HasPrefix(uuid, "CRYPT-"):
		return User{device + " is opened as " + mapped, "cryptsetup close " + mapped, dmKind, mapped}
	case mapped != "":
		return User{device + " is used by the device mapper's " + mapped, "dmsetup remove " + mapped, dmKind, mapped}
	case strings.HasPrefix(name, "md"):
		raid := devicePath(name)
		return User{device + " belongs to the RAID " + raid, "mdadm --stop " + raid, mdKind, raid}
	}
	return User{What: device + " is used by " + devicePath(name), Command: "find out what that is"}
}

// mountPoints returns where a device, by its numbers, is mounted.
func mountPoints(proc, numbers string) (all []string) {
	b, _ := os.ReadFile(filepath.Join(proc, "self/mountinfo"))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); numbers != "" && len(f) > 5 && f[2] == numbers && !slices.Contains(all, f[4]) {
			all = append(all, strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4]))
		}
	}
	return all
}

func swapOn(proc, device string) bool {
	b, _ := os.ReadFile(filepath.Join(proc, "swaps"))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == device {
			return true
		}
	}
	return false
}
