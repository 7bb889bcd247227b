// Package rpm reads which packages rpm's database lists, in each of the three formats that it has had.
//
//	SQLite       rpmdb.sqlite    rpm 4.16 and later: column blob of table Packages (sqlite.org/fileformat.html)
//	ndb          Packages.db     SUSE: slots that point to blobs (rpm, lib/backend/ndb/rpmpkg.c)
//	Berkeley DB  Packages        before: the values of a hash (Berkeley DB 4 and 5, dbinc/db_page.h)
//
// Each value is a package's header (rpm, docs/manual/format_header.md), numbers big-endian:
//
//	entries, bytes of data        4 bytes each
//	tag, type, offset, count      4 bytes each, for each entry
//	data
//
// A database was written by whoever made the image, and is read by root. So there is no SQL engine here, each page
// is read once at most, and nothing is taken that does not lie within the file: time and memory are bounded
// by its size. What SQLite's log beside the database has (rpmdb.sqlite-wal) is not seen; it is empty when rpm has
// ended.
package rpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Package is an installed package.
type Package struct {
	Name, Arch string
	// Version is epoch:version-release, without an epoch of 0: what rpm prints between name and architecture.
	Version string
}

var errOutside = errors.New("it points beyond its end")

// Parse reads a database of any format.
func Parse(b []byte) ([]Package, error) {
	var format string
	var headers func([]byte, func([]byte) error) error
	switch {
	case bytes.HasPrefix(b, []byte(sqliteMagic)):
		format, headers = "SQLite", readSQLite
	case bytes.HasPrefix(b, []byte(ndbMagic)):
		format, headers = "ndb", readNDB
	case berkeleyOrder(b) != nil:
		format, headers = "Berkeley DB", readBerkeley
	default:
		return nil, errors.New("rpm database: neither SQLite, nor ndb, nor Berkeley DB")
	}
	var all []Package
	err := headers(b, func(header []byte) error {
		p, err := parseHeader(header)
		if err == nil {
			all = append(all, p)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("rpm database (%s): %w", format, err)
	}
	return all, nil
}

// Tags and types of a header's entries.
const (
	tagName, tagVersion, tagRelease, tagEpoch, tagArch = 1000, 1001, 1002, 1003, 1022

	typeInt32, typeString = 4, 6
)

// maxText bounds a name or version, in bytes: what a person is to read.
const maxText = 1024

func parseHeader(b []byte) (p Package, err error) {
	fail := func(what string) (Package, error) { return Package{}, fmt.Errorf("header of a package: %s", what) }
	if len(b) < 8 {
		return fail(errOutside.Error())
	}
	entries, size := uint64(binary.BigEndian.Uint32(b)), uint64(binary.BigEndian.Uint32(b[4:]))
	if 8+16*entries+size > uint64(len(b)) {
		return fail(errOutside.Error())
	}
	data := b[8+16*entries:][:size]
	text := map[uint32]string{}
	var epoch uint32
	for i := range entries {
		entry := b[8+16*i:]
		tag, kind := binary.BigEndian.Uint32(entry), binary.BigEndian.Uint32(entry[4:])
		at := binary.BigEndian.Uint32(entry[8:])
		switch tag {
		case tagName, tagVersion, tagRelease, tagArch:
			if kind != typeString || uint64(at) >= size {
				return fail(fmt.Sprintf("tag %d is no text", tag))
			}
			s, _, ended := bytes.Cut(data[at:min(size, uint64(at)+maxText+1)], []byte{0})
			if !ended {
				return fail(fmt.Sprintf("tag %d has no end", tag))
			}
			text[tag] = string(s)
		case tagEpoch:
			if kind != typeInt32 || uint64(at)+4 > size {
				return fail("its epoch is no number")
			}
			epoch = binary.BigEndian.Uint32(data[at:])
		}
	}
	if text[tagName] == "" {
		return fail("it has no name")
	}
	p = Package{Name: text[tagName], Arch: text[tagArch], Version: text[tagVersion]}
	if release := text[tagRelease]; release != "" {
		p.Version += "-" + release
	}
	if epoch != 0 {
		p.Version = fmt.Sprintf("%d:%s", epoch, p.Version)
	}
	// One text for each tag, and none that goes on beyond its line.
	if strings.ContainsAny(p.Name+p.Arch+p.Version, "\n\x00") {
		return fail("a name has several lines")
	}
	return p, nil
}

// pages are a file in pages of one size, each of which is read once at most: a circle of them is an error.
type pages struct {
	file []byte
	size int
	read []bool
}

func newPages(file []byte, size int) *pages {
	return &pages{file, size, make([]bool, len(file)/size)}
}

// page returns a page by its number from 0.
func (p *pages) page(n uint64) ([]byte, error) {
	if n >= uint64(len(p.read)) {
		return nil, errOutside
	}
	if p.read[n] {
		return nil, fmt.Errorf("page %d is used twice", n)
	}
	p.read[n] = true
	return p.file[int(n)*p.size:][:p.size], nil
}

// within returns n bytes at an offset.
func within(b []byte, at, n uint64) ([]byte, error) {
	if at > math.MaxInt32 || n > math.MaxInt32 || at+n > uint64(len(b)) {
		return nil, errOutside
	}
	return b[at:][:n], nil
}
