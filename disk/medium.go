package disk

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/gpt"
)

// Medium is an ISO or a disk that is read.
type Medium struct {
	Format string // "iso", "raw" or "qcow2"
	Size   int64  // in bytes; of a QEMU disk what the disk has, not the file
	// SectorSize is the size of a disk's logical sectors in bytes, which its partition table shows; 0 for an ISO.
	SectorSize int64
	// Volumes are the partitions of a disk by their numbers, or the ISO 9660 volume and the EFI image of an ISO.
	Volumes []Volume
}

// Volume is a file system, or a partition without one that is known here.
type Volume struct {
	Number int    // of the partition, from 1; 0 for what is not in a GUID partition table
	Name   string // of the partition
	GUID   string // of the partition, in lower case
	Type   string // of the partition, a GUID in upper case
	FS     string // "iso9660", "vfat", "ext4", or empty
	Label  string // of the file system
	Start  int64  // in bytes, on the medium
	Size   int64  // in bytes

	r io.ReaderAt
}

// ErrNoMedium says that bytes are no medium that can be read.
var ErrNoMedium = errors.New("neither an ISO nor a disk with a GUID partition table, raw or qcow2")

// OpenMedium reads what an ISO, a raw disk or a QEMU disk of a size in bytes consists of. Sizes that a medium states
// are bounded by its own; a damaged or hostile one is an error, here or when its files are read.
func OpenMedium(r io.ReaderAt, size int64) (*Medium, error) {
	m, err := openMedium(r, size)
	if err != nil {
		return nil, fmt.Errorf("open medium: %w", err)
	}
	return m, nil
}

func openMedium(r io.ReaderAt, size int64) (*Medium, error) {
	m := &Medium{Format: "raw", Size: size}
	if isQCOW2(r) {
		var err error
		if r, m.Size, err = OpenQCOW2(r); err != nil {
			return nil, err
		}
		m.Format = "qcow2"
	}
	if v, ok := identify(io.NewSectionReader(r, 0, m.Size), m.Size); ok && v.FS == "iso9660" {
		m.Format = "iso"
		m.Volumes = append([]Volume{v}, efiImage(r, m.Size)...)
		return m, nil
	}
	for _, m.SectorSize = range []int64{512, 4096} {
		t, err := gpt.Read(r, m.Size, m.SectorSize)
		if err != nil {
			continue
		}
		for _, p := range t.Partitions {
			start, size := p.First*m.SectorSize, (p.Last-p.First+1)*m.SectorSize
			v, _ := identify(io.NewSectionReader(r, start, size), size)
			v.Number, v.Name, v.GUID, v.Type, v.Start = p.Number, p.Name, p.GUID, p.Type, start
			m.Volumes = append(m.Volumes, v)
		}
		return m, nil
	}
	return nil, ErrNoMedium
}

// OpenVolume reads which file system a device of a size in bytes has, from its first byte on. It is not ok where it
// has none that is known here.
func OpenVolume(r io.ReaderAt, size int64) (v Volume, ok bool) {
	return identify(io.NewSectionReader(r, 0, size), size)
}

// efiImage returns the volume that UEFI starts an ISO from.
func efiImage(r io.ReaderAt, size int64) []Volume {
	begin, n, ok := fat.InISO(r, size)
	if !ok {
		return nil
	}
	v, ok := identify(io.NewSectionReader(r, begin, n), n)
	if !ok {
		return nil
	}
	v.Name, v.Start = "efi", begin
	return []Volume{v}
}

// identify finds out which file system begins here.
func identify(r io.ReaderAt, size int64) (Volume, bool) {
	v := Volume{Size: size, r: r}
	b := make([]byte, 64)
	if readFull(r, b, 16*sector) == nil && string(b[:6]) == "\x01CD001" {
		v.FS, v.Label = "iso9660", strings.TrimRight(string(b[40:]), " \x00")
		if readFull(r, b[:8], 16*sector+64) == nil {
			v.Label = strings.TrimRight(v.Label+string(b[:8]), " \x00")
		}
		return v, true
	}
	super := make([]byte, 1024)
	if readFull(r, super, 1024) == nil && le.Uint16(super[0x38:]) == 0xef53 {
		label, _, _ := strings.Cut(string(super[0x78:0x88]), "\x00")
		v.FS, v.Label = "ext4", label
		return v, true
	}
	if f, err := fat.Open(fat.ReadOnly(r)); err == nil {
		v.FS = "vfat"
		v.Label, _ = f.Label()
		return v, true
	}
	return v, false
}

// Open returns the volume's files: each is an [io.ReaderAt] and an [io.Seeker]. Nothing is written, so what a journal
// of ext4 still has to put in its place is not seen: a disk that was in use is to be shut down first. Links are not
// followed.
func (v Volume) Open() (fs.FS, error) {
	var files fs.FS
	var err error
	switch v.FS {
	case "vfat":
		var f *fat.Volume
		if f, err = fat.Open(fat.ReadOnly(v.r)); err == nil {
			files = f.FS()
		}
	case "iso9660":
		files, err = readISO(v.r, v.Size)
	case "ext4":
		files, err = readExt4(v.r, v.Size)
	default:
		err = errors.New("no file system that is known here")
	}
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", cmp.Or(v.Label, v.Name), err)
	}
	return files, nil
}

// ReadAt reads the volume's own bytes.
func (v Volume) ReadAt(b []byte, off int64) (int, error) { return v.r.ReadAt(b, off) }

// Dirty says whether an ext4 file system was not unmounted: its journal has what [Volume.Open] does not see.
func (v Volume) Dirty() bool {
	const needsRecovery = 0x4 // s_feature_incompat, Documentation/filesystems/ext4/super.rst
	b := make([]byte, 4)
	return v.FS == "ext4" && readFull(v.r, b, 1024+0x60) == nil && le.Uint32(b)&needsRecovery != 0
}
