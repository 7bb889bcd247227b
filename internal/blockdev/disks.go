package blockdev

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sysBlock is where the kernel shows its block devices.
const sysBlock = "/sys/class/block"

// Partition is a partition that the kernel knows.
type Partition struct {
	Number int
	Device string // such as /dev/sda1
	Name   string // in the partition table, where it has one
}

// Partitions returns the partitions of a disk, such as /dev/sda, by number.
func Partitions(disk string) []Partition { return partitions(sysBlock, disk) }

func partitions(sys, disk string) []Partition {
	var all []Partition
	numbers, _ := filepath.Glob(filepath.Join(sys, kernelName(disk), "*", "partition"))
	for _, file := range numbers {
		dir := filepath.Dir(file)
		n, err := strconv.Atoi(attribute(dir, "partition"))
		if err != nil {
			continue
		}
		p := Partition{Number: n, Device: devicePath(filepath.Base(dir))}
		for line := range strings.Lines(attribute(dir, "uevent")) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PARTNAME="); ok {
				p.Name = v
			}
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Partition) int { return a.Number - b.Number })
	return all
}

// virtual are the names of devices that are no disks: they hold no medium of their own.
var virtual = []string{"loop", "ram", "dm-", "zram", "nbd", "md"}

// List returns the devices of disks and drives, then those of partitions.
func List() []string { return list(sysBlock) }

func list(sys string) []string {
	entries, _ := os.ReadDir(sys)
	var disks, parts []string
	for _, e := range entries {
		name := e.Name()
		if slices.ContainsFunc(virtual, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		if _, err := os.Stat(filepath.Join(sys, name, "partition")); err == nil {
			parts = append(parts, devicePath(name))
		} else {
			disks = append(disks, devicePath(name))
		}
	}
	return append(disks, parts...)
}

// A name with a slash, such as cciss/c0d0, has an exclamation mark in the kernel's folders.

func devicePath(name string) string { return "/dev/" + strings.ReplaceAll(name, "!", "/") }

func kernelName(device string) string {
	return strings.ReplaceAll(strings.TrimPrefix(device, "/dev/"), "/", "!")
}

func attribute(dir, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, name)) // an attribute that is not there is empty
	return strings.TrimSpace(string(b))
}
