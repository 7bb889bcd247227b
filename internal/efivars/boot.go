package efivars

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Entry is a boot entry of the firmware, Boot####: a program on a partition.
type Entry struct {
	Description string
	Partition   int    // its number
	First, Size int64  // in sectors of the disk
	GUID        string // the partition's, as in the partition table
	Path        string // of the program, with slashes
}

// Nodes of a device path, UEFI specification 2.10, section 10.3.
const (
	mediaPath, hardDrive, filePath = 4, 1, 4
	endPath, endEntire             = 0x7f, 0xff
	active                         = 1 // LOAD_OPTION_ACTIVE
)

// Marshal returns the bytes of the entry: attributes, length of the device path, description, and the device path,
// which names the partition and the program, and not the way from the machine to the disk.
func (e Entry) Marshal() ([]byte, error) {
	guid, err := guidBytes(e.GUID)
	if err != nil {
		return nil, err
	}
	var drive []byte
	drive = binary.LittleEndian.AppendUint32(drive, uint32(e.Partition))
	drive = binary.LittleEndian.AppendUint64(drive, uint64(e.First))
	drive = binary.LittleEndian.AppendUint64(drive, uint64(e.Size))
	drive = append(append(drive, guid...), 2, 2) // GPT; the signature is a GUID
	program := FromText(strings.ReplaceAll("/"+strings.TrimPrefix(e.Path, "/"), "/", `\`))
	path := slices.Concat(
		node(mediaPath, hardDrive, drive), node(mediaPath, filePath, program), node(endPath, endEntire, nil))
	b := binary.LittleEndian.AppendUint32(nil, active)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(path)))
	return slices.Concat(b, FromText(e.Description), path), nil
}

func node(kind, sub byte, data []byte) []byte {
	b := binary.LittleEndian.AppendUint16([]byte{kind, sub}, uint16(4+len(data)))
	return append(b, data...)
}

// guidBytes returns a GUID as the firmware has it: the first three groups are little-endian numbers.
func guidBytes(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return nil, fmt.Errorf("GUID %q: want 32 hex digits", s)
	}
	slices.Reverse(b[0:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	return b, nil
}

// same says whether two boot entries start the same program of the same partition, whatever they are called.
func same(a, b []byte) bool {
	pa, _, ok := parse(a)
	pb, _, ok2 := parse(b)
	return ok && ok2 && bytes.Equal(pa, pb)
}

// parse returns the device path of a boot entry and its description.
func parse(b []byte) (path []byte, description string, ok bool) {
	if len(b) < 6 {
		return nil, "", false
	}
	size, rest := int(binary.LittleEndian.Uint16(b[4:])), b[6:]
	description = Text(rest)
	for len(rest) >= 2 && (rest[0] != 0 || rest[1] != 0) {
		rest = rest[2:]
	}
	if len(rest) < 2+size {
		return nil, "", false
	}
	return rest[2:][:size], description, true
}

// Boot is what the firmware starts, as a value.
type Boot struct {
	Entries map[uint16][]byte // Boot####
	Order   []uint16          // BootOrder
}

// Prefer returns the boot order with an entry first, and its number: the number of the entry that starts the same,
// else the first that is free. Other entries stay where they are behind it, those of another disk that are called the
// same among them.
func (b Boot) Prefer(entry []byte) (number uint16, order []uint16) {
	for n := range b.Entries {
		if same(b.Entries[n], entry) && (number == 0 || n < number) {
			number = n
		}
	}
	if _, ok := b.Entries[number]; !ok || !same(b.Entries[number], entry) {
		for number = 0; b.Entries[number] != nil; number++ {
		}
	}
	return number, append([]uint16{number}, without(b.Order, number)...)
}

// ReadBoot reads what the firmware starts.
func (d Dir) ReadBoot() (Boot, error) {
	b := Boot{Entries: map[uint16][]byte{}}
	names, err := d.Names(Global)
	if err != nil {
		return b, err
	}
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, "Boot")
		n, err := strconv.ParseUint(digits, 16, 16)
		if !ok || len(digits) != 4 || err != nil {
			continue
		}
		if b.Entries[uint16(n)], err = d.Read(name, Global); err != nil {
			return b, err
		}
	}
	order, err := d.Read("BootOrder", Global)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	b.Order = numbers(order)
	return b, nil
}

// Prefer has the firmware start an entry, at the next start and from then on. Each step is tried: where the memory for
// a new entry is full, an old one of the same program may do.
func (d Dir) Prefer(e Entry) error {
	if err := d.Check(); err != nil {
		return err
	}
	entry, err := e.Marshal()
	if err != nil {
		return err
	}
	b, err := d.ReadBoot()
	if err != nil {
		return err
	}
	number, order := b.Prefer(entry)
	if !same(b.Entries[number], entry) {
		if err := d.Write(fmt.Sprintf("Boot%04X", number), Global, entry); err != nil {
			return err
		}
	}
	return errors.Join(
		d.Write("BootOrder", Global, fromNumbers(order...)),
		d.Write("BootNext", Global, fromNumbers(number)),
	)
}
