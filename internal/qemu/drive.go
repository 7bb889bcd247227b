package qemu

import (
	"fmt"
	"strings"
)

// Bus is how a drive is connected.
type Bus string

const (
	Virtio Bus = "virtio" // disks: virtio-blk; CD drives: virtio-scsi
	AHCI   Bus = "ahci"   // SATA, as on most PCs; amd64 only
	USB    Bus = "usb"    // xHCI and USB mass storage
	NVMe   Bus = "nvme"   // disks only
	SCSI   Bus = "scsi"   // virtio-scsi
)

// Drive is a disk or a CD.
type Drive struct {
	Path   string
	Format string // raw (the default) or qcow2
	CDROM  bool   // a CD drive, read-only
	Bus    Bus    // default: AHCI for CD drives on amd64, else Virtio
	// Snapshot keeps what the machine writes in a temporary file and leaves Path as it is.
	Snapshot bool
	// Cache is QEMU's cache mode; default writeback. See qemu(1), -drive cache=.
	Cache string
	// WriteLog is a file that gets every write and flush of the machine to the drive, in their order,
	// as package writelog reads it; "" for none. It must exist, and is overwritten.
	WriteLog string
	// SectorSize is the size of its logical sectors in bytes; 0: 512. CD drives have their own, USB has none.
	SectorSize int
	// Serial is the disk's serial number, which /dev/disk/by-id shows; at most 20 characters.
	Serial string
}

func driveArgs(drives []Drive, arch string) ([]string, error) {
	var args []string
	controllers := map[Bus]bool{}
	controller := func(b Bus, device string) {
		if !controllers[b] {
			controllers[b] = true
			args = append(args, "-device", device)
		}
	}
	for i, d := range drives {
		bus := d.Bus
		if bus == "" {
			bus = Virtio
			if d.CDROM && arch == "amd64" {
				bus = AHCI
			}
		}
		var device string
		switch {
		case bus == AHCI && arch == "amd64": // q35 has the controller
			device = fmt.Sprintf("ide-hd,bus=ide.%d", i)
			if d.CDROM {
				device = fmt.Sprintf("ide-cd,bus=ide.%d", i)
			}
		case bus == USB:
			controller(USB, "qemu-xhci,id=xhci")
			device = "usb-storage,bus=xhci.0"
		case bus == NVMe && !d.CDROM:
			device = "nvme"
			if d.Serial == "" {
				d.Serial = fmt.Sprintf("nvme%d", i) // the device demands one
			}
		case bus == SCSI || bus == Virtio && d.CDROM:
			controller(SCSI, "virtio-scsi-pci,id=vscsi")
			device = "scsi-hd,bus=vscsi.0"
			if d.CDROM {
				device = "scsi-cd,bus=vscsi.0"
			}
		case bus == Virtio:
			device = "virtio-blk-pci"
		default:
			return nil, fmt.Errorf("drive %s: no %s drive of this kind on %s", d.Path, bus, arch)
		}
		if d.SectorSize != 0 {
			device += fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", d.SectorSize, d.SectorSize)
		}
		if d.Serial != "" {
			device += ",serial=" + escape(d.Serial)
		}
		args = append(args, "-drive", d.option(i),
			"-device", fmt.Sprintf("%s,drive=drive%d,bootindex=%d", device, i, i))
	}
	return args, nil
}

func (d Drive) option(i int) string {
	var b strings.Builder
	format := d.Format
	if format == "" {
		format = "raw"
	}
	if d.WriteLog != "" {
		fmt.Fprintf(
			&b,
			"if=none,id=drive%d,driver=blklogwrites,file.driver=%s,file.file.driver=file,"+
				"file.file.filename=%s,log.driver=file,log.filename=%s",
			i,
			format,
			escape(d.Path),
			escape(d.WriteLog),
		)
	} else {
		fmt.Fprintf(&b, "if=none,id=drive%d,format=%s,file=%s", i, format, escape(d.Path))
	}
	if d.CDROM {
		b.WriteString(",media=cdrom,readonly=on")
	} else if d.Snapshot {
		b.WriteString(",snapshot=on")
	}
	if d.Cache != "" {
		b.WriteString(",cache=" + d.Cache)
	}
	return b.String()
}
