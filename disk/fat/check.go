package fat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Check compares what a volume that this package has made says twice, or can say in one way only: boot sector, FSInfo,
// their copies, and the FATs. What files and folders say is for who knows what should be in them. A volume that
// somebody else has made, or that was not unmounted, is an error.
func Check(r io.ReaderAt) error {
	boot := make([]byte, 512)
	if _, err := r.ReadAt(boot, 0); err != nil {
		return fmt.Errorf("FAT: boot sector: %w", err)
	}
	h, err := parseHeader(boot)
	if err != nil {
		return err
	}
	read := func(at, size int64) ([]byte, error) {
		b := make([]byte, size)
		_, err := r.ReadAt(b, at)
		return b, err
	}
	same := func(what string, at int64, want []byte) error {
		have, err := read(at, int64(len(want)))
		if err != nil {
			return fmt.Errorf("FAT: %s: %w", what, err)
		}
		if !bytes.Equal(have, want) {
			return fmt.Errorf("FAT: %s is damaged, or the volume was not unmounted", what)
		}
		return nil
	}
	if err := same("the boot sector", 0, h.encode()); err != nil {
		return err
	}
	if h.FAT32 {
		if err := same("the boot sector's copy", copySector*h.Sector, h.encode()); err != nil {
			return err
		}
		for what, at := range map[string]int64{
			"FSInfo": infoSector * h.Sector, "FSInfo's copy": (copySector + 1) * h.Sector,
		} {
			info, err := read(at, h.Sector)
			if err != nil {
				return fmt.Errorf("FAT: %s: %w", what, err)
			}
			// The numbers are hints, which who writes files changes in the first of them alone.
			if err := same(what, at, h.info(le.Uint32(info[488:]), le.Uint32(info[492:]))); err != nil {
				return err
			}
		}
	}
	first := h.fatAt(0)
	for at := int64(0); at < h.FATSectors*h.Sector; at += h.Sector {
		sector, err := read(first+at, h.Sector)
		if err != nil {
			return fmt.Errorf("FAT: the file allocation table: %w", err)
		}
		for i := int64(1); i < h.FATs; i++ {
			if err := same(fmt.Sprintf("copy %d of the file allocation table, or the table,", i),
				h.fatAt(i)+at, sector); err != nil {
				return err
			}
		}
	}
	v, err := Open(unwritable{r})
	if err != nil {
		return err
	}
	return v.checkNames(0, 0)
}

// unwritable is a volume that is not written to.
type unwritable struct{ io.ReaderAt }

func (unwritable) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }

// maxDepth is how deep folders are looked at.
const maxDepth = 16

// checkNames compares the sums of long names, in a folder and below: who finds another one takes the short name, as
// firmware and Linux do and [Volume.FS] does not.
func (d *Volume) checkNames(folder uint32, depth int) error {
	if depth > maxDepth {
		return errors.New("FAT: its folders are too deep")
	}
	var folders []uint32
	var sums []byte
	err := d.walk(folder, func(at int64, b []byte) (bool, error) {
		switch {
		case b[0] == deleted:
			sums = nil
		case b[11]&0x3f == attrLong:
			sums = append(sums, b[13])
		default:
			for _, sum := range sums {
				if want := shortSum([11]byte(b)); sum != want {
					return false, fmt.Errorf("FAT: the name of %q at byte %d is damaged", shortText(b), at)
				}
			}
			sums = nil
			if b[11]&attrDir != 0 && b[11]&attrVolume == 0 && b[0] != '.' {
				folders = append(folders, entry{raw: [direntSize]byte(b)}.first())
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, f := range folders {
		if f < firstCluster {
			return errors.New("FAT: a folder has no clusters")
		}
		if err := d.checkNames(f, depth+1); err != nil {
			return err
		}
	}
	return nil
}
