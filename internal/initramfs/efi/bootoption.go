package efi

import (
	"encoding/binary"
	"fmt"

	"github.com/kairos-buildkit/kairos/internal/efivars"
)

// Path is where the firmware says that it has started this machine from, as far as it can be found again in Linux
// (UEFI specification 2.10, chapter 10.3).
type Path struct {
	// PCI are the functions from the root bridge to the controller, as Linux writes them: 1f.2.
	PCI []string
	// Port is the place behind the controller: "sata 0", "scsi 0 0" (target, unit), "nvme 1" (namespace), "" for the
	// controller's only one, such as virtio's, or "?" for one that says nothing to Linux.
	Port string
}

// BootPath returns where the boot option that was taken leads. ok is false where the firmware does not say, or says
// only which partition it was, as options do that name a partition's GUID.
func BootPath() (p Path, ok bool) {
	current, err := efivars.System.Read("BootCurrent", efivars.Global)
	if err != nil || len(current) != 2 {
		return Path{}, false
	}
	name := fmt.Sprintf("Boot%04X", binary.LittleEndian.Uint16(current))
	option, err := efivars.System.Read(name, efivars.Global)
	if err != nil {
		return Path{}, false
	}
	return parseBootOption(option)
}

// parseBootOption reads an EFI_LOAD_OPTION: attributes (4), length of the path (2), description in UTF-16, path.
func parseBootOption(b []byte) (Path, bool) {
	if len(b) < 6 {
		return Path{}, false
	}
	length := int(binary.LittleEndian.Uint16(b[4:]))
	b = b[6:]
	for {
		if len(b) < 2 {
			return Path{}, false
		}
		c := binary.LittleEndian.Uint16(b)
		b = b[2:]
		if c == 0 {
			break
		}
	}
	if length > len(b) {
		return Path{}, false
	}
	return parsePath(b[:length])
}

// Types of a device path's nodes.
const (
	hardware, messaging, media, end = 1, 3, 4, 0x7f
)

func parsePath(b []byte) (p Path, ok bool) {
	le := binary.LittleEndian
	for len(b) >= 4 {
		kind, sub, n := b[0], b[1], int(le.Uint16(b[2:]))
		if n < 4 || n > len(b) {
			return Path{}, false
		}
		d := b[4:n]
		b = b[n:]
		switch {
		case kind == end, kind == media:
			return p, len(p.PCI) > 0
		case kind == hardware && sub == 1 && len(d) == 2:
			p.PCI = append(p.PCI, fmt.Sprintf("%02x.%d", d[1], d[0]))
		case kind != messaging:
		case sub == 18 && len(d) >= 6 && p.Port == "":
			p.Port = fmt.Sprintf("sata %d", le.Uint16(d))
		case sub == 2 && len(d) >= 4 && p.Port == "":
			p.Port = fmt.Sprintf("scsi %d %d", le.Uint16(d), le.Uint16(d[2:]))
		case sub == 23 && len(d) >= 4 && p.Port == "":
			p.Port = fmt.Sprintf("nvme %d", le.Uint32(d))
		default:
			p.Port = "?"
		}
	}
	return p, len(p.PCI) > 0
}
