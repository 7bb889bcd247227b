package uki

import (
	"errors"
	"fmt"
	"io"
)

// maxSections bounds the section headers that are read: Windows takes no more.
const maxSections = 96

// ReadSection returns the data of a file's section, of at most so many bytes, and reads nothing but that and the
// headers.
func ReadSection(r io.ReaderAt, name string, limit int64) ([]byte, error) {
	b := make([]byte, 0x40)
	if _, err := r.ReadAt(b, 0); err != nil || string(b[:2]) != "MZ" {
		return nil, errors.New("not a PE file: no MZ header")
	}
	pe := int64(le.Uint32(b[0x3c:]))
	if _, err := r.ReadAt(b[:4+coffSize], pe); err != nil || string(b[:4]) != "PE\x00\x00" {
		return nil, errors.New("not a PE file: no PE header")
	}
	coff := b[4:]
	count := int64(le.Uint16(coff[coffSections:]))
	if count > maxSections {
		return nil, fmt.Errorf("PE file: %d sections", count)
	}
	table := make([]byte, count*sectionSize)
	if _, err := r.ReadAt(table, pe+4+coffSize+int64(le.Uint16(coff[coffOptionalSize:]))); err != nil && count > 0 {
		return nil, fmt.Errorf("PE file: section headers: %w", err)
	}
	for ; len(table) > 0; table = table[sectionSize:] {
		s := parseSection(table)
		if s.name != name {
			continue
		}
		size := int64(min(s.size, s.virtualSize))
		if size > limit {
			return nil, fmt.Errorf("PE file: section %s has %d bytes", name, size)
		}
		data := make([]byte, size)
		if n, err := r.ReadAt(data, int64(s.offset)); n < len(data) {
			return nil, fmt.Errorf("PE file: section %s: %w", name, errors.Join(err, io.ErrUnexpectedEOF))
		}
		return data, nil
	}
	return nil, fmt.Errorf("PE file: no section %s", name)
}
