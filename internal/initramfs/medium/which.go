package medium

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/blockdev"
	"github.com/kairos-buildkit/kairos/internal/initramfs/efi"
	"github.com/kairos-buildkit/kairos/layout"
)

// sysClass is where the kernel shows its devices by their kinds.
const sysClass = "/sys/class"

// fit says how well a device fits a path of the firmware.
type fit int

const (
	other   fit = iota // it is elsewhere
	perhaps            // on the same controller, or at a place that cannot be compared
	exact
)

// pciFunction is a PCI function in a path of sysfs: 0000:00:1f.2.
var pciFunction = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:([0-9a-f]{2}\.[0-7])$`)

// fits says whether a disk, or a drive, is where the firmware says that it started from.
func fits(class, device string, p efi.Path) fit {
	block := filepath.Join(class, "block", strings.ReplaceAll(strings.TrimPrefix(device, "/dev/"), "/", "!"))
	at, err := filepath.EvalSymlinks(block)
	if err != nil {
		return perhaps
	}
	var functions []string
	parts := strings.Split(at, "/")
	for _, part := range parts {
		if m := pciFunction.FindStringSubmatch(part); m != nil {
			functions = append(functions, m[1])
		}
	}
	if len(functions) == 0 {
		return perhaps // such as a disk that several paths lead to
	}
	if strings.Join(functions, " ") != strings.Join(p.PCI, " ") {
		return other
	}
	have := port(class, block, parts)
	switch kind, _, _ := strings.Cut(p.Port, " "); {
	case have == p.Port:
		return exact
	case kind == "?", have == "?", !strings.HasPrefix(have, kind):
		return perhaps
	}
	return other
}

var (
	ataPort    = regexp.MustCompile(`^ata(\d+)$`)
	scsiDevice = regexp.MustCompile(`^\d+:\d+:(\d+):(\d+)$`)
)

// port returns a device's place behind its controller, as efi.Path has it.
func port(class, block string, parts []string) string {
	found := "?"
	for _, part := range parts {
		if ata := ataPort.FindString(part); ata != "" {
			b, err := os.ReadFile(filepath.Join(class, "ata_port", ata, "port_no"))
			n, bad := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil || bad != nil {
				return "?"
			}
			return fmt.Sprintf("sata %d", n-1) // the kernel counts from 1
		}
		if m := scsiDevice.FindStringSubmatch(part); m != nil {
			found = fmt.Sprintf("scsi %s %s", m[1], m[2])
		}
		switch {
		case strings.HasPrefix(part, "usb"):
			return "?" // firmware and kernel number its ports differently
		case strings.HasPrefix(part, "virtio"):
			found = ""
		}
	}
	if b, err := os.ReadFile(filepath.Join(block, "nsid")); err == nil {
		found = "nvme " + strings.TrimSpace(string(b))
	}
	return found
}

// ErrAlike says that several devices look like what the machine was started from.
var ErrAlike = errors.New("it cannot be said which one the machine was started from")

// started returns the device that the machine was started from: the first one that was found, if no other one is like
// it, else the one that the firmware names. what says what they have in common.
func (f *Finder) started(first, what string, like func(device string) bool) (string, error) {
	var path efi.Path
	known := false
	if efi.Firmware() {
		path, known = efi.BootPath()
	}
	f.what = what
	f.alike = func() []string {
		alike := []string{first}
		for _, device := range blockdev.List() {
			if device != first && like(device) {
				alike = append(alike, device)
			}
		}
		return wholes(sysClass, alike)
	}
	if known && fits(sysClass, first, path) == exact {
		return first, f.Alone()
	}
	f.Devices.Settle()
	if err := f.Alone(); err != nil {
		return "", err
	}
	alike := f.alike()
	if device := choose(sysClass, alike, path, known); device != "" {
		if device != first {
			f.Log.Info("%s has %s, too: the machine was started from %s", first, what, device)
		}
		return device, nil
	}
	if same(alike) {
		return alike[0], nil
	}
	return "", fmt.Errorf(
		"%s have %s: %w. Detach the others and start the machine again; a raw image gives each disk that it is "+
			"written to an identity of its own at its first boot, and `sgdisk -G` a copy of a disk",
		strings.Join(alike, " and "),
		what,
		ErrAlike,
	)
}

// Alone refuses a device that looks like the one that was booted from, where the initrd trusts some keys: whose
// partitions are mounted must not be a question of which one answers first. Copies of a live medium are one.
func (f *Finder) Alone() error {
	if f.Seal == nil || f.alike == nil {
		return nil
	}
	alike := f.alike()
	if len(alike) < 2 || same(alike) {
		return nil
	}
	return f.Seal.Refuse(fmt.Errorf("%s have %s, and one alone may: %w. Detach the others",
		strings.Join(alike, " and "), f.what, ErrAlike))
}

// wholes leaves out partitions of disks that are in the list, too: what begins both is the same.
func wholes(class string, devices []string) (out []string) {
	for _, device := range devices {
		block := filepath.Join(class, "block", strings.TrimPrefix(device, "/dev/"))
		if _, err := os.Stat(filepath.Join(block, "partition")); err == nil {
			at, err := filepath.EvalSymlinks(block)
			if err == nil && slices.Contains(devices, "/dev/"+filepath.Base(filepath.Dir(at))) {
				continue
			}
		}
		out = append(out, device)
	}
	return out
}

// comparedBytes are what live media are compared by: their directories and first files, which no two images share.
// Disks are written to, and are not the same for long.
const comparedBytes = 8 << 20

// same says whether devices are read-only copies of one medium, of which any serves.
func same(devices []string) bool {
	var first []byte
	for _, device := range devices {
		b, err := beginning(device)
		if err != nil || parseISOLabel(b[16*2048:]) != layout.LabelLive || first != nil && !bytes.Equal(b, first) {
			return false
		}
		first = b
	}
	return true
}

func beginning(device string) ([]byte, error) {
	f, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, comparedBytes)
	_, err = io.ReadFull(f, b)
	return b, err
}

// choose returns the device that the machine was started from, of those that look alike. It returns "" where that
// cannot be said.
func choose(class string, alike []string, p efi.Path, known bool) string {
	if len(alike) == 1 {
		return alike[0]
	}
	if !known {
		return ""
	}
	for _, want := range []fit{exact, perhaps} {
		var found []string
		for _, device := range alike {
			if fits(class, device, p) >= want {
				found = append(found, device)
			}
		}
		if len(found) == 1 {
			return found[0]
		}
		if len(found) > 1 {
			return ""
		}
	}
	return ""
}
