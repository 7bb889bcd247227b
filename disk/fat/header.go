package fat

import (
	"encoding/binary"
	"errors"
)

var le = binary.LittleEndian

// header is what a boot sector says: where the parts of a volume lie, in sectors where nothing else is said.
//
//	boot sector · FAT32: FSInfo, copy of both at sector 6 · FATs · FAT12 and FAT16: root folder · clusters
type header struct {
	FAT32       bool  // the fields are where FAT32 has them; whether the volume is FAT32 its clusters' number says
	Sector      int64 // bytes
	PerCluster  int64
	Reserved    int64 // before the first FAT
	FATs        int64 // how many
	FATSectors  int64 // of each
	RootEntries int64 // FAT12 and FAT16: dirents in the root folder
	RootCluster uint32
	Total       int64
	Hidden      uint32 // before the volume on its disk
	Serial      uint32
	Label       [11]byte // padded with spaces
}

// fatAt is where a FAT begins, the first being 0, in bytes.
func (h header) fatAt(i int64) int64 { return (h.Reserved + i*h.FATSectors) * h.Sector }

// rootAt is where the root folder of FAT12 and FAT16 begins, in bytes, and rootSize what it takes: whole sectors.
func (h header) rootAt() int64   { return h.fatAt(h.FATs) }
func (h header) rootSize() int64 { return align(h.RootEntries*direntSize, h.Sector) }

// data is where the clusters begin, in bytes.
func (h header) data() int64 { return h.rootAt() + h.rootSize() }

// cluster is the size of a cluster in bytes.
func (h header) cluster() int64 { return h.PerCluster * h.Sector }

// clusters is their number, negative where there is no room for what is before them.
func (h header) clusters() int64 { return (h.Total*h.Sector - h.data()) / h.cluster() }

// encode returns the boot sector.
func (h header) encode() []byte {
	b := make([]byte, h.Sector)
	copy(b, "\xeb\x58\x90KAIROS  ")
	le.PutUint16(b[11:], uint16(h.Sector))
	b[13] = byte(h.PerCluster)
	le.PutUint16(b[14:], uint16(h.Reserved))
	b[16] = byte(h.FATs)
	le.PutUint16(b[17:], uint16(h.RootEntries))
	if h.Total < 1<<16 && !h.FAT32 {
		le.PutUint16(b[19:], uint16(h.Total))
	} else {
		le.PutUint32(b[32:], uint32(h.Total))
	}
	b[21] = 0xf8 // fixed disk
	le.PutUint16(b[24:], 63)
	le.PutUint16(b[26:], 255)
	le.PutUint32(b[28:], h.Hidden)
	tail, kind := b[36:], "FAT16   "
	if h.FAT32 {
		tail, kind = b[64:], "FAT32   "
		le.PutUint32(b[36:], uint32(h.FATSectors))
		le.PutUint32(b[44:], h.RootCluster)
		le.PutUint16(b[48:], infoSector)
		le.PutUint16(b[50:], copySector)
	} else {
		b[1] = 0x3c
		le.PutUint16(b[22:], uint16(h.FATSectors))
	}
	tail[0] = 0x80
	tail[2] = 0x29
	le.PutUint32(tail[3:], h.Serial)
	copy(tail[7:], h.Label[:])
	copy(tail[18:], kind)
	b[510], b[511] = 0x55, 0xaa
	return b
}

// parseHeader reads a boot sector, of which the first 512 bytes are enough.
func parseHeader(b []byte) (header, error) {
	if len(b) < 512 || b[510] != 0x55 || b[511] != 0xaa {
		return header{}, errors.New("FAT: no FAT file system")
	}
	h := header{
		Sector:      int64(le.Uint16(b[11:])),
		PerCluster:  int64(b[13]),
		Reserved:    int64(le.Uint16(b[14:])),
		FATs:        int64(b[16]),
		RootEntries: int64(le.Uint16(b[17:])),
		Total:       int64(le.Uint16(b[19:])),
		FATSectors:  int64(le.Uint16(b[22:])),
		Hidden:      le.Uint32(b[28:]),
	}
	if h.Total == 0 {
		h.Total = int64(le.Uint32(b[32:]))
	}
	tail := b[36:]
	if h.FATSectors == 0 {
		h.FAT32, tail = true, b[64:]
		h.FATSectors = int64(le.Uint32(b[36:]))
		h.RootCluster = le.Uint32(b[44:])
	}
	h.Serial = le.Uint32(tail[3:])
	copy(h.Label[:], tail[7:])
	if h.Sector < 512 || h.Sector > 4096 || h.Sector&(h.Sector-1) != 0 ||
		h.PerCluster == 0 || h.FATs == 0 || h.FATSectors == 0 {
		return header{}, errors.New("FAT: no FAT file system")
	}
	return h, nil
}

// info returns FAT32's sector that says how many clusters are free, and where to look for the next one.
func (h header) info(free, next uint32) []byte {
	b := make([]byte, h.Sector)
	copy(b, "RRaA")
	copy(b[484:], "rrAa")
	le.PutUint32(b[488:], free)
	le.PutUint32(b[492:], next)
	b[510], b[511] = 0x55, 0xaa
	return b
}
