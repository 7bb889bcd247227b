package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Offsets in GRUB's images (GRUB 2.02 to 2.12), where they are told at which 512-byte sector
// the rest of GRUB is.
const (
	hybridKernel  = 0x1b0 // boot_hybrid.img: sector of diskboot, which is behind cdboot's four
	mbrCode       = 440   // length of boot code in a master boot record
	cdbootSize    = 2048  // eltorito.img: cdboot, then what a disk would load as core.img
	diskbootList  = 0x1f4 // diskboot: its block list, the sector behind itself
	bootInfoTable = 8     // eltorito.img: El Torito "boot information table", 56 bytes
)

var le = binary.LittleEndian

// isoMBR makes the sector that makes the volume a disk: GRUB's boot code, an active partition
// over the volume (some BIOSes boot from nothing else), and the EFI system partition.
// bios and efi are sectors of 2048 bytes, 0 where there is none.
func isoMBR(hybrid []byte, bios, efi, efiSize int64) ([]byte, error) {
	b := make([]byte, 512)
	if bios != 0 {
		if len(hybrid) != 512 {
			return nil, fmt.Errorf("boot_hybrid.img has %d bytes, want 512", len(hybrid))
		}
		copy(b[:mbrCode], hybrid)
		le.PutUint64(b[hybridKernel:], uint64(bios*4+cdbootSize/512))
	}
	end := efi * 4
	if efi != 0 {
		mbrPartition(b, 1, false, 0xef, uint32(efi*4), uint32(efiSize/512))
	} else {
		end = bios * 4
	}
	// From sector 1, so that this partition is not itself a volume with the same label.
	mbrPartition(b, 0, bios != 0, 0xcd, 1, uint32(end-1))
	b[510], b[511] = 0x55, 0xaa
	return b, nil
}

// mbrPartition writes one of the four partition entries. Cylinders, heads and sectors say
// "use the LBA fields".
func mbrPartition(mbr []byte, n int, active bool, kind byte, start, count uint32) {
	e := mbr[446+16*n:][:16]
	if active {
		e[0] = 0x80
	}
	e[1], e[2], e[3] = 0xfe, 0xff, 0xff
	e[4] = kind
	e[5], e[6], e[7] = 0xfe, 0xff, 0xff
	le.PutUint32(e[8:], start)
	le.PutUint32(e[12:], count)
}

// patchElTorito tells GRUB's image where on the volume it is.
func patchElTorito(img []byte, at int64) ([]byte, error) {
	if len(img) < cdbootSize+512 {
		return nil, errors.New("eltorito.img is too short to be GRUB's")
	}
	b := append([]byte(nil), img...)
	le.PutUint64(b[cdbootSize+diskbootList:], uint64(at*4+cdbootSize/512+1))
	table := b[bootInfoTable:][:56]
	clear(table)
	le.PutUint32(table[0:], 16) // primary volume descriptor
	le.PutUint32(table[4:], uint32(at))
	le.PutUint32(table[8:], uint32(len(b)))
	var sum uint32
	for i := bootInfoTable + len(table); i < len(b); i += 4 {
		var word [4]byte
		copy(word[:], b[i:])
		sum += le.Uint32(word[:])
	}
	le.PutUint32(table[12:], sum)
	return b, nil
}

func bootRecord(catalog int64) []byte {
	b := make([]byte, sector)
	copy(b, "\x00CD001\x01EL TORITO SPECIFICATION")
	le.PutUint32(b[0x47:], uint32(catalog))
	return b
}

const (
	platformX86 = 0x00
	platformEFI = 0xef
)

// bootCatalog lists what firmware can boot: for BIOS the default entry, for UEFI a section
// of its own, or the default entry where there is no BIOS boot.
func bootCatalog(bios, efi, efiSize int64) []byte {
	b := make([]byte, sector)
	b[0], b[1] = 1, platformX86
	if bios == 0 {
		b[1] = platformEFI
	}
	copy(b[4:28], "KAIROS")
	b[30], b[31] = 0x55, 0xaa
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += le.Uint16(b[i:])
	}
	le.PutUint16(b[28:], -sum)

	// The size is in units of 512 bytes and has 16 bits; 0 is "up to the volume's end".
	efiSectors := uint16(0)
	if n := efiSize / 512; n < 1<<16 {
		efiSectors = uint16(n)
	}
	entry := func(b []byte, at int64, sectors uint16) {
		b[0] = 0x88 // bootable, no emulation
		le.PutUint16(b[6:], sectors)
		le.PutUint32(b[8:], uint32(at))
	}
	switch {
	case bios == 0:
		entry(b[32:], efi, efiSectors)
	case efi == 0:
		entry(b[32:], bios, 4)
	default:
		entry(b[32:], bios, 4)
		b[64], b[65] = 0x91, platformEFI // last section header
		le.PutUint16(b[66:], 1)
		entry(b[96:], efi, efiSectors)
	}
	return b
}
