// Package uki makes unified kernel images: one EFI program that is systemd's stub with a
// kernel, an initrd and a command line appended as sections (UAPI Group Specifications: UKI).
//
// A UKI is a PE32+ file (Microsoft PE format; UEFI specification 2.10, section 2.1.1):
//
//	0            DOS header; at 0x3c the offset of "PE\0\0"
//	PE           "PE\0\0", COFF header (20 bytes), optional header, section headers (40 bytes each)
//	             zeros up to SizeOfHeaders: room for more section headers
//	             the stub's sections
//	             the appended sections, each at a multiple of FileAlignment and of 2048 in the
//	             file, and of SectionAlignment in memory; in memory in their order, in the file
//	             the small ones first; one may ask for more, and then the one before it is
//	             padded: no gaps in the file
//
// Equal inputs give equal bytes.
package uki

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Section is one section of a PE file.
type Section struct {
	Name string // at most 8 bytes, such as ".linux"
	Data []byte
	// Align is a power of two: Append has the section begin at a multiple of it in the file.
	// 0 means that any place will do.
	Align uint32
}

// Names of the sections that systemd's stub reads.
const (
	Linux   = ".linux"
	Initrd  = ".initrd"
	Cmdline = ".cmdline"
	OSRel   = ".osrel"
	Uname   = ".uname"
	// PCRKey and PCRSignatures are what a TPM unseals by: see package uki/pcr.
	PCRKey        = ".pcrpkey"
	PCRSignatures = ".pcrsig"
	// Profile begins a profile: the sections behind it take the place of those before the first one when a boot loader
	// names its number. The first one is number 0, which starts where none is named.
	Profile = ".profile"
)

// cdSector is the block size of ISO 9660: a volume that has the UKI can show the kernel in it
// as a file of its own, without a second copy.
const cdSector = 2048

// Characteristics of a section.
const (
	initializedData = 0x00000040
	readable        = 0x40000000
)

// Append returns the stub with the sections added after its own. A section that the stub has
// already, an empty one, or more than the stub has headers for, is an error.
func Append(stub []byte, sections []Section) ([]byte, error) {
	h, err := parse(stub)
	if err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	if h.certificateSize() != 0 {
		return nil, errors.New(
			"stub: it is signed, and sections cannot be added to a signed file: use the unsigned stub",
		)
	}
	if stub, h, err = h.room(stub, len(sections)); err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	// Nothing may follow the stub's last section, or the new ones would not be where the
	// headers say.
	fileEnd, memoryEnd := int64(h.headersSize), int64(align(uint64(h.headersSize), h.sectionAlignment))
	seen := map[string]bool{}
	for _, s := range h.sections {
		seen[s.name] = true
		fileEnd = max(fileEnd, int64(s.offset)+int64(s.size))
		memoryEnd = max(memoryEnd, int64(s.address)+int64(s.virtualSize))
	}
	for _, s := range sections {
		if s.Name == Profile {
			clear(seen)
		}
		if err := check(s, seen); err != nil {
			return nil, err
		}
	}
	out := bytes.NewBuffer(make([]byte, 0, int(fileEnd)+total(sections)))
	out.Write(stub[:fileEnd])
	headers := make([]sectionHeader, len(sections))
	order := fileOrder(sections)
	for n, i := range order {
		next := len(sections)
		if n+1 < len(order) {
			next = order[n+1]
		}
		s := sections[i]
		pad(out, h.alignment(sections, i)) // does something for the first only
		end := align(uint64(out.Len()+len(s.Data)), h.alignment(sections, next))
		if end > math.MaxInt32 {
			return nil, fmt.Errorf("section %s: the file would be larger than 2 GiB", s.Name)
		}
		headers[i] = sectionHeader{
			name: s.Name, virtualSize: uint32(len(s.Data)),
			size: uint32(end) - uint32(out.Len()), offset: uint32(out.Len()),
			characteristics: initializedData | readable,
		}
		out.Write(s.Data)
		pad(out, h.alignment(sections, next))
	}
	for _, header := range headers {
		memoryEnd = int64(align(uint64(memoryEnd), h.sectionAlignment))
		header.address = uint32(memoryEnd)
		memoryEnd += int64(header.virtualSize)
		if memoryEnd+int64(h.sectionAlignment) > math.MaxInt32 {
			return nil, fmt.Errorf("section %s: the file would be larger than 2 GiB", header.name)
		}
		if err := h.add(out.Bytes(), header); err != nil {
			return nil, err
		}
	}
	h.finish(out.Bytes(), uint32(align(uint64(memoryEnd), h.sectionAlignment)))
	return out.Bytes(), nil
}

// small is the size in bytes up to which a section is one that boot loaders read to list the file.
const small = 16 << 10

// fileOrder is the order of the sections' data in the file: first what a boot loader lists the file by, all its
// profiles too. A file whose end is lost is still listed then, tried, and counted as a try that failed.
func fileOrder(sections []Section) []int {
	order := make([]int, len(sections))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(min(len(sections[a].Data)/small, 1), min(len(sections[b].Data)/small, 1))
	})
	return order
}

// alignment is what section i must begin at a multiple of, or the file end where there is none.
func (h *header) alignment(sections []Section, i int) uint32 {
	a := max(h.fileAlignment, cdSector)
	if i < len(sections) {
		a = max(a, sections[i].Align)
	}
	return a
}

// Sections lists a PE file's sections with the data that is in the file, without padding.
func Sections(file []byte) ([]Section, error) {
	h, err := parse(file)
	if err != nil {
		return nil, err
	}
	var list []Section
	for _, s := range h.sections {
		list = append(list, Section{Name: s.name, Data: file[s.offset:][:min(s.size, s.virtualSize)]})
	}
	return list, nil
}

func check(s Section, seen map[string]bool) error {
	switch {
	case s.Name == "" || len(s.Name) > 8 || bytes.ContainsRune([]byte(s.Name), 0):
		return fmt.Errorf("section %q: a name has 1 to 8 bytes, none of them zero", s.Name)
	case len(s.Data) == 0:
		return fmt.Errorf("section %s: it is empty", s.Name)
	case seen[s.Name]:
		return fmt.Errorf("section %s: the file has it already", s.Name)
	case s.Align&(s.Align-1) != 0 || s.Align > 1<<20:
		return fmt.Errorf("section %s: alignment %d is not a power of two up to 1 MiB", s.Name, s.Align)
	}
	seen[s.Name] = true
	return nil
}

func total(sections []Section) int {
	n := 0
	for _, s := range sections {
		n += len(s.Data) + 8192 + int(s.Align) // its padding
	}
	return n
}

func align(n uint64, to uint32) uint64 { return (n + uint64(to) - 1) / uint64(to) * uint64(to) }

func pad(b *bytes.Buffer, to uint32) {
	b.Write(make([]byte, align(uint64(b.Len()), to)-uint64(b.Len())))
}

// checksum is the PE checksum: the ones' complement sum of the file's 16-bit words, with the
// checksum's own field taken as zero, plus the file's length.
func checksum(file []byte, field int) uint32 {
	var sum uint64
	i := 0
	for ; i+1 < len(file); i += 2 {
		if i != field && i != field+2 {
			sum += uint64(binary.LittleEndian.Uint16(file[i:]))
		}
	}
	if i < len(file) {
		sum += uint64(file[i])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint32(sum) + uint32(len(file))
}
