package fat

import "unicode/utf16"

// What a volume is made of.
const (
	firstCluster = 2          // the number of the first cluster: the FAT's entries before it belong to none
	badCluster   = 0x0ffffff7 // a FAT's entry for a cluster that is not to be used
	endOfChain   = 0x0fffffff // a FAT's entry for the last cluster of a chain
	maxFile      = 1<<32 - 1  // bytes

	direntSize     = 32 // bytes of a dirent in a folder
	charsPerDirent = 13 // characters of a long name in a dirent
	infoSector     = 1  // FAT32: where header.info is
	copySector     = 6  // FAT32: where the copy of the boot sector is, and of FSInfo behind it

	attrVolume  = 0x08
	attrDir     = 0x10
	attrArchive = 0x20
	attrLong    = 0x0f

	// minFAT16 and maxFAT16 are the numbers of clusters that make a volume FAT16: fewer are FAT12, more FAT32.
	minFAT16, maxFAT16 = 4085, 65524
	// maxFAT32 is the number of clusters that FAT32 has at most: entries have 28 bits, of which some values say
	// other things.
	maxFAT32 = 0x0ffffff5

	deleted = 0xe5 // a dirent's first byte
)

// The places of a long name's characters in a dirent.
var longPlaces = [charsPerDirent]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}

func longChars(dirent []byte) []uint16 {
	chars := make([]uint16, charsPerDirent)
	for i, at := range longPlaces {
		chars[i] = le.Uint16(dirent[at:])
	}
	return chars
}

func longName(chars []uint16) string {
	for i, c := range chars {
		if c == 0 {
			chars = chars[:i]
			break
		}
	}
	return string(utf16.Decode(chars))
}

// longDirents returns the dirents of a long name, in the order in which they lie on the disk.
func longDirents(name []uint16, sum byte) [][direntSize]byte {
	n := (len(name) + charsPerDirent - 1) / charsPerDirent
	dirents := make([][direntSize]byte, n)
	for i := range n {
		b := &dirents[n-1-i]
		b[0] = byte(i + 1)
		if i == n-1 {
			b[0] |= 0x40
		}
		b[11], b[13] = attrLong, sum
		for j, at := range longPlaces {
			c := uint16(0xffff)
			switch k := i*charsPerDirent + j; {
			case k < len(name):
				c = name[k]
			case k == len(name):
				c = 0
			}
			le.PutUint16(b[at:], c)
		}
	}
	return dirents
}

// shortSum is the checksum that ties a long name to its 8.3 name.
func shortSum(name [11]byte) (sum byte) {
	for _, c := range name {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}
