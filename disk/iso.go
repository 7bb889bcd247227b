package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/sparse"
)

// ISO describes a live medium: an ISO 9660 volume with Rock Ridge names, that boots from CD
// (El Torito) and from a disk or stick (a master boot record over the same bytes), under BIOS
// and UEFI.
//
//	sector (2048 bytes)
//	 0    master boot record: GRUB's boot_hybrid.img, two partitions; then zero
//	16    primary volume descriptor
//	17    boot record: points at the boot catalog
//	18    volume descriptor set terminator
//	19    boot catalog · path tables · directories
//	...   files, in the order of their paths; one is eltorito.img, patched with where it is
//	...   EFI system partition, a FAT image
//	...   150 sectors of zero, for drives that read ahead at the end of a track
//
// The FAT image comes last, because El Torito cannot give the size of one above 32 MiB: firmware
// then takes what is left of the volume.
//
// ECMA-119, fourth edition (ISO 9660); System Use Sharing Protocol 1.12 and Rock Ridge
// Interchange Protocol 1.10 (IEEE P1281, P1282 drafts); El Torito 1.0; UEFI specification 2.10, section 13.3.2.
type ISO struct {
	Volume string    // volume identifier
	Time   time.Time // of the volume and all files
	Files  []filetree.File
	// BIOS boot: GRUB's images, both or none.
	BootHybrid, ElTorito []byte
	// EFI is the FAT image of the EFI system partition, or nil.
	EFI *sparse.Image
	// Shared are files whose content is a part of the EFI image, and is on the medium once.
	Shared []Shared
}

// Shared is a file in a volume that consists of parts of the EFI image. Each of them begins at a multiple of
// 2048, and all but the last have a size that is one.
type Shared struct {
	Path  string
	Parts []sparse.Part
}

func (s Shared) size() (size int64) {
	for _, p := range s.Parts {
		size += p.Size
	}
	return size
}

// Check says what keeps the parts from being a file.
func (s Shared) Check(efi *sparse.Image) error {
	for i, p := range s.Parts {
		if efi == nil || p.At%sector != 0 || p.At < 0 || p.Size < 0 || p.At+p.Size > efi.Size ||
			i < len(s.Parts)-1 && p.Size%sector != 0 {
			return fmt.Errorf(
				"%s: %d bytes at %d are not a part of the EFI image that a file can share",
				s.Path,
				p.Size,
				p.At,
			)
		}
	}
	return nil
}

const (
	elToritoPath = "boot/grub/eltorito.img"

	sector     = 2048
	isoPadding = 150
	// maxExtent is the largest size of one extent of a file, a 32-bit number of bytes. A
	// larger file has several.
	maxExtent = 1<<32 - sector
	// maxExtents is the number of extents that Linux reads of a file (fs/isofs/inode.c, isofs_read_level3_size).
	maxExtents = 100
)

// extents counts the directory records that a file takes.
func extents(parts []sparse.Part) (n int64) {
	for _, p := range parts {
		n += max(1, ceil(p.Size, maxExtent))
	}
	return n
}

// Image lays the volume out.
func (iso ISO) Image() (*sparse.Image, error) {
	m, err := iso.image()
	if err != nil {
		return nil, fmt.Errorf("lay out ISO: %w", err)
	}
	return m, nil
}

func (iso ISO) image() (*sparse.Image, error) {
	if (len(iso.BootHybrid) == 0) != (len(iso.ElTorito) == 0) {
		return nil, errors.New("BIOS boot takes both boot_hybrid.img and eltorito.img")
	}
	if len(iso.ElTorito) == 0 && iso.EFI == nil {
		return nil, errors.New("nothing to boot from: neither GRUB's images nor an EFI image")
	}
	if len(iso.Volume) > 32 {
		return nil, fmt.Errorf("volume identifier %q has more than 32 characters", iso.Volume)
	}
	var eltorito []byte // patched, once its place is known
	files := iso.Files
	if n := len(iso.ElTorito); n > 0 {
		// As a file, so that tools which copy the volume find it.
		files = append(
			slices.Clone(files),
			filetree.File{Path: elToritoPath, Size: int64(n), Open: func() (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(eltorito)), nil
			}},
		)
	}
	shared := map[string]Shared{}
	for _, f := range iso.Shared {
		if err := f.Check(iso.EFI); err != nil {
			return nil, err
		}
		shared[f.Path] = f
		files = append(slices.Clip(files),
			filetree.File{Path: f.Path, Size: f.size(), Open: func() (io.ReadCloser, error) {
				return nil, errors.New("it is in the EFI image")
			}})
	}
	root, err := filetree.New(files)
	if err != nil {
		return nil, err
	}
	v := volume{iso: iso, next: 19, files: map[*filetree.Node][]sparse.Part{}}
	root.Walk(func(n *filetree.Node) {
		if f, ok := shared[n.Path]; ok {
			v.files[n] = f.Parts // how many there are decides how large its folder is; moved below
		}
	})
	catalog := v.take(sector)
	if err := v.placeDirs(root); err != nil {
		return nil, err
	}
	var bios, efi, efiSize int64
	root.Walk(func(n *filetree.Node) {
		if _, ok := shared[n.Path]; ok || n.IsDir() {
			return
		}
		at := v.take(n.Size)
		v.files[n] = []sparse.Part{{At: at * sector, Size: n.Size}}
		if n.Path == elToritoPath && len(iso.ElTorito) > 0 {
			bios = at
		}
	})
	if iso.EFI != nil {
		efiSize = align(iso.EFI.Size, sector)
		efi = v.take(efiSize)
	}
	root.Walk(func(n *filetree.Node) {
		if f, ok := shared[n.Path]; ok {
			v.files[n] = slices.Clone(f.Parts)
			for i := range v.files[n] {
				v.files[n][i].At += efi * sector
			}
		}
	})
	v.take(isoPadding * sector)
	if v.next*4 > 1<<32 {
		return nil, errors.New("the volume exceeds 2 TiB: its boot record counts sectors of 512 bytes in 32 bits")
	}
	for n, parts := range v.files {
		if count := extents(parts); count > maxExtents {
			return nil, fmt.Errorf("%s: %d bytes in %d extents: Linux reads no file of more than %d",
				n.String(), n.Size, count, maxExtents)
		}
	}

	m := &sparse.Image{Size: v.next * sector}
	mbr, err := isoMBR(iso.BootHybrid, bios, efi, efiSize)
	if err != nil {
		return nil, err
	}
	m.AddBytes(0, "master boot record", mbr)
	m.AddBytes(16*sector, "primary volume descriptor", v.primaryDescriptor())
	m.AddBytes(17*sector, "boot record", bootRecord(catalog))
	m.AddBytes(18*sector, "set terminator", setTerminator())
	m.AddBytes(catalog*sector, "boot catalog", bootCatalog(bios, efi, efiSize))
	v.addDirs(m)
	if bios != 0 {
		if eltorito, err = patchElTorito(iso.ElTorito, bios); err != nil {
			return nil, err
		}
	}
	root.Walk(func(n *filetree.Node) {
		if _, ok := shared[n.Path]; !ok && !n.IsDir() {
			m.Add(v.files[n][0].At, n.Extent())
		}
	})
	if iso.EFI != nil {
		m.AddImage(efi*sector, iso.EFI)
	}
	return m, nil
}

// isoTime returns t as the volume will show it: whole seconds, in the years 1900 to 2155
// that the format has.
func isoTime(t time.Time) time.Time {
	t = t.UTC().Truncate(time.Second)
	if t.Year() < 1900 {
		return time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if t.Year() > 2155 {
		return time.Date(2155, 12, 31, 0, 0, 0, 0, time.UTC)
	}
	return t
}
