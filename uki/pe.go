package uki

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

var le = binary.LittleEndian

// Offsets in the COFF header, the optional header of PE32+, and a section header.
const (
	coffSections     = 2
	coffOptionalSize = 16
	coffSize         = 20

	optSizeOfInitializedData = 8
	optSectionAlignment      = 32
	optFileAlignment         = 36
	optSizeOfImage           = 56
	optSizeOfHeaders         = 60
	optCheckSum              = 64
	optDirectories           = 108 // number of data directories, then 8 bytes for each
	optCertificates          = 112 + 4*8
	optMinSize               = 112

	sectionSize = 40
)

// header is what a PE file's headers say.
type header struct {
	coff, optional, table int // offsets in the file
	headersSize           uint32
	sectionAlignment      uint32
	fileAlignment         uint32
	certificates          uint32
	sections              []sectionHeader
}

type sectionHeader struct {
	name                 string
	virtualSize, address uint32
	size, offset         uint32
	characteristics      uint32
}

// parse reads the headers and checks all that later code relies on.
func parse(file []byte) (*header, error) { return parseHeaders(file, int64(len(file))) }

// parseHeaders is parse of the beginning of a file of a size.
func parseHeaders(file []byte, total int64) (*header, error) {
	if len(file) < 0x40 || string(file[:2]) != "MZ" {
		return nil, errors.New("not a PE file: no MZ header")
	}
	pe := int64(le.Uint32(file[0x3c:]))
	if pe < 0x40 || pe+4+coffSize > int64(len(file)) || string(file[pe:pe+4]) != "PE\x00\x00" {
		return nil, errors.New("not a PE file: no PE header")
	}
	h := &header{coff: int(pe) + 4}
	h.optional = h.coff + coffSize
	optionalSize := int(le.Uint16(file[h.coff+coffOptionalSize:]))
	h.table = h.optional + optionalSize
	count := int(le.Uint16(file[h.coff+coffSections:]))
	if optionalSize < optMinSize || h.table+count*sectionSize > len(file) || le.Uint16(file[h.optional:]) != 0x20b {
		return nil, errors.New("not a PE32+ file")
	}
	opt := file[h.optional:h.table]
	h.headersSize = le.Uint32(opt[optSizeOfHeaders:])
	h.sectionAlignment = le.Uint32(opt[optSectionAlignment:])
	h.fileAlignment = le.Uint32(opt[optFileAlignment:])
	if le.Uint32(opt[optDirectories:]) > 4 && optionalSize >= optCertificates+8 {
		h.certificates = le.Uint32(opt[optCertificates+4:])
	}
	for _, a := range []uint32{h.sectionAlignment, h.fileAlignment} {
		if a == 0 || a&(a-1) != 0 || a > 1<<20 {
			return nil, fmt.Errorf("PE file: alignment %d is not a power of two up to 1 MiB", a)
		}
	}
	if int64(h.headersSize) > total || int(h.headersSize) < h.table+count*sectionSize {
		return nil, fmt.Errorf("PE file: header size %d", h.headersSize)
	}
	for i := range count {
		s := parseSection(file[h.table+i*sectionSize:])
		if s.size == 0 {
			s.offset = 0 // only memory, such as .bss
		} else if s.offset < h.headersSize {
			return nil, fmt.Errorf("PE file: section %s overlaps the headers", s.name)
		}
		if int64(s.offset)+int64(s.size) > total || int64(s.address)+int64(s.virtualSize) > 1<<31 {
			return nil, fmt.Errorf("PE file: section %s is not within the file", s.name)
		}
		h.sections = append(h.sections, s)
	}
	return h, nil
}

func parseSection(b []byte) sectionHeader {
	return sectionHeader{
		name:        strings.TrimRight(string(b[:8]), "\x00"),
		virtualSize: le.Uint32(b[8:]), address: le.Uint32(b[12:]),
		size: le.Uint32(b[16:]), offset: le.Uint32(b[20:]),
		characteristics: le.Uint32(b[36:]),
	}
}

func (h *header) certificateSize() uint32 { return h.certificates }

// room returns a file with room for more section headers: where it has none, all that follows the headers moves on, as
// far as the first section in memory allows.
func (h *header) room(file []byte, more int) ([]byte, *header, error) {
	need := h.table + (len(h.sections)+more)*sectionSize
	if need <= int(h.headersSize) {
		return file, h, nil
	}
	size := uint32(align(uint64(need), h.fileAlignment))
	for _, s := range h.sections {
		if size > s.address {
			return file, h, nil // the section that has no room is an error
		}
	}
	moved := append(append(append([]byte{}, file[:h.headersSize]...), make([]byte, size-h.headersSize)...),
		file[h.headersSize:]...)
	for i, s := range h.sections {
		if s.size > 0 {
			le.PutUint32(moved[h.table+i*sectionSize+20:], s.offset+size-h.headersSize)
		}
	}
	le.PutUint32(moved[h.optional+optSizeOfHeaders:], size)
	grown, err := parse(moved)
	return moved, grown, err
}

// add writes one more section header into the file.
func (h *header) add(file []byte, s sectionHeader) error {
	at := h.table + len(h.sections)*sectionSize
	if at+sectionSize > int(h.headersSize) {
		return fmt.Errorf(
			"section %s: the stub's headers have no room for more than %d sections",
			s.name,
			len(h.sections),
		)
	}
	b := file[at : at+sectionSize]
	clear(b)
	copy(b[:8], s.name)
	le.PutUint32(b[8:], s.virtualSize)
	le.PutUint32(b[12:], s.address)
	le.PutUint32(b[16:], s.size)
	le.PutUint32(b[20:], s.offset)
	le.PutUint32(b[36:], s.characteristics)
	h.sections = append(h.sections, s)
	le.PutUint16(file[h.coff+coffSections:], uint16(len(h.sections)))
	initialized := file[h.optional+optSizeOfInitializedData:]
	le.PutUint32(initialized, le.Uint32(initialized)+s.size)
	return nil
}

// finish writes what depends on the whole file.
func (h *header) finish(file []byte, imageSize uint32) {
	le.PutUint32(file[h.optional+optSizeOfImage:], imageSize)
	field := h.optional + optCheckSum
	le.PutUint32(file[field:], checksum(file, field))
}

// Arch returns the architecture of an EFI program, in OCI's words.
func Arch(file []byte) (string, error) {
	h, err := parse(file)
	if err != nil {
		return "", err
	}
	switch machine := le.Uint16(file[h.coff:]); machine {
	case 0x8664:
		return "amd64", nil
	case 0xaa64:
		return "arm64", nil
	default:
		return "", fmt.Errorf("PE file: machine type %#x is neither amd64 nor arm64", machine)
	}
}
