package fattest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/kairos-buildkit/kairos/disk/fat"
)

var le = binary.LittleEndian

// driver makes files and folders on a FAT16 volume as a kernel's driver does: the first free clusters, the first
// run of free dirents that is long enough. It knows FAT from the specification and nothing of package fat.
//
// Reference: Microsoft FAT File System Specification 1.03.
type driver struct {
	b                         []byte // the volume
	cluster                   int64  // bytes
	fat, fatSize, copies      int64
	root, rootSize, data, end int64
}

const (
	sector     = 512
	direntSize = 32
)

func drive(volume []byte) (*driver, error) {
	b := volume
	if le.Uint16(b[11:]) != sector || le.Uint16(b[22:]) == 0 {
		return nil, errors.New("fattest: want a FAT16 volume with sectors of 512 bytes")
	}
	d := &driver{b: b, cluster: int64(b[13]) * sector, fat: int64(le.Uint16(b[14:])) * sector, copies: int64(b[16])}
	d.fatSize = int64(le.Uint16(b[22:])) * sector
	d.root, d.rootSize = d.fat+d.copies*d.fatSize, int64(le.Uint16(b[17:]))*direntSize
	d.data, d.end = d.root+d.rootSize, int64(len(b))
	if n := (d.end - d.data) / d.cluster; n < 4085 || n > 65524 {
		return nil, fmt.Errorf("fattest: %d clusters are not FAT16's", n)
	}
	return d, nil
}

func (d *driver) next(c int64) int64 { return int64(le.Uint16(d.b[d.fat+2*c:])) }

func (d *driver) link(c, to int64) {
	for i := range d.copies {
		le.PutUint16(d.b[d.fat+i*d.fatSize+2*c:], uint16(to))
	}
}

// content is what is in a cluster.
func (d *driver) content(c int64) []byte { return d.b[d.data+(c-2)*d.cluster:][:d.cluster] }

// allocate chains free clusters for so many bytes, behind a cluster or at the beginning of a chain.
func (d *driver) allocate(size, behind int64) (first int64, err error) {
	for c := int64(2); size > 0; c++ {
		if d.data+(c-1)*d.cluster > d.end {
			return 0, errors.New("fattest: the volume is full")
		}
		if d.next(c) != 0 {
			continue
		}
		if first == 0 {
			first = c
		}
		if behind != 0 {
			d.link(behind, c)
		}
		d.link(c, 0xffff)
		behind, size = c, size-d.cluster
	}
	return first, nil
}

// places are where a folder's dirents lie, 0 being the root.
func (d *driver) places(dir int64) (all []int64, last int64) {
	part := func(at, size int64) {
		for i := int64(0); i < size; i += direntSize {
			all = append(all, at+i)
		}
	}
	if dir == 0 {
		part(d.root, d.rootSize)
		return all, 0
	}
	for c := dir; c >= 2 && c < 0xfff8; last, c = c, d.next(c) {
		part(d.data+(c-2)*d.cluster, d.cluster)
	}
	return all, last
}

// find returns where the dirent of a name is, 0 for none.
func (d *driver) find(dir int64, name string) int64 {
	var long []uint16
	places, _ := d.places(dir)
	for _, at := range places {
		e := d.b[at:][:direntSize]
		switch {
		case e[0] == 0:
			return 0
		case e[0] == 0xe5:
			long = nil
		case e[11] == 0x0f:
			var part []uint16
			for _, i := range longPlaces {
				part = append(part, le.Uint16(e[i:]))
			}
			long = append(part, long...)
		case e[11]&0x08 != 0:
			long = nil
		default:
			have := strings.TrimRight(string(e[:8]), " ")
			if ext := strings.TrimRight(string(e[8:11]), " "); ext != "" {
				have += "." + ext
			}
			if i := slices.Index(long, 0); i >= 0 {
				long = long[:i]
			}
			if long != nil {
				have = string(utf16.Decode(long))
			}
			if strings.EqualFold(have, name) {
				return at
			}
			long = nil
		}
	}
	return 0
}

var longPlaces = [...]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}

// add gives a file a name in a folder.
func (d *driver) add(dir int64, name string, attr byte, first, size int64) error {
	short := d.short(dir, name)
	var sum byte
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	chars := utf16.Encode([]rune(name))
	if len(chars)%len(longPlaces) != 0 {
		chars = append(chars, 0)
	}
	for len(chars)%len(longPlaces) != 0 {
		chars = append(chars, 0xffff)
	}
	n := len(chars) / len(longPlaces)
	var dirents []byte
	for i := n; i > 0; i-- {
		e := make([]byte, direntSize)
		e[0], e[11], e[13] = byte(i), 0x0f, sum
		if i == n {
			e[0] |= 0x40
		}
		for j, at := range longPlaces {
			le.PutUint16(e[at:], chars[(i-1)*len(longPlaces)+j])
		}
		dirents = append(dirents, e...)
	}
	e := make([]byte, direntSize)
	copy(e, short[:])
	e[11] = attr
	le.PutUint16(e[24:], 0x5821) // January 1, 2024
	le.PutUint16(e[26:], uint16(first))
	le.PutUint32(e[28:], uint32(size))
	dirents = append(dirents, e...)

	places, last := d.places(dir)
	for free := []int64(nil); ; {
		for _, at := range places {
			if d.b[at] != 0 && d.b[at] != 0xe5 {
				free = nil
				continue
			}
			if free = append(free, at); len(free)*direntSize == len(dirents) {
				for i, at := range free {
					copy(d.b[at:], dirents[i*direntSize:][:direntSize])
				}
				return nil
			}
		}
		if dir == 0 {
			return errors.New("fattest: the root folder is full")
		}
		c, err := d.allocate(1, last)
		if err != nil {
			return err
		}
		clear(d.content(c))
		places, last = nil, c
		for i := int64(0); i < d.cluster; i += direntSize {
			places = append(places, d.data+(c-2)*d.cluster+i)
		}
	}
}

// short returns an 8.3 name that no other file of the folder has.
func (d *driver) short(dir int64, name string) (s [11]byte) {
	stem, ext := strings.ToUpper(strings.TrimSuffix(name, path.Ext(name))), strings.ToUpper(path.Ext(name))
	stem = strings.NewReplacer("+", "_", " ", "", ".", "", "~", "_").Replace(stem)
	places, _ := d.places(dir)
	for n := 1; ; n++ {
		tail := fmt.Sprintf("~%d", n)
		copy(s[:], fmt.Sprintf("%-8s%-3.3s", stem[:min(len(stem), 8-len(tail))]+tail, strings.TrimPrefix(ext, ".")))
		if !slices.ContainsFunc(places, func(at int64) bool { return string(d.b[at:][:11]) == string(s[:]) }) {
			return s
		}
	}
}

// folder returns the first cluster of a folder, 0 for the root.
func (d *driver) folder(name string) (c int64, err error) {
	if name == "." {
		return 0, nil
	}
	for _, part := range strings.Split(name, "/") {
		at := d.find(c, part)
		if at == 0 {
			return 0, fmt.Errorf("fattest: no folder %s", name)
		}
		c = int64(le.Uint16(d.b[at+26:]))
	}
	return c, nil
}

// mkdir makes a folder.
func (d *driver) mkdir(name string) error {
	dir, err := d.folder(path.Dir(name))
	if err != nil {
		return err
	}
	c, err := d.allocate(1, 0)
	if err != nil {
		return err
	}
	b := d.content(c)
	clear(b)
	for i, to := range []int64{c, dir} {
		copy(b[i*direntSize:], ".          "[:11])
		if i == 1 {
			b[direntSize+1] = '.'
		}
		b[i*direntSize+11] = 0x10
		le.PutUint16(b[i*direntSize+24:], 0x5821)
		le.PutUint16(b[i*direntSize+26:], uint16(to))
	}
	return d.add(dir, path.Base(name), 0x10, c, 0)
}

// write makes a file, or gives one that has as many bytes others, in place.
func (d *driver) write(name string, data []byte) error {
	dir, err := d.folder(path.Dir(name))
	if err != nil {
		return err
	}
	at := d.find(dir, path.Base(name))
	var first int64
	switch {
	case at != 0 && int(le.Uint32(d.b[at+28:])) == len(data):
		first = int64(le.Uint16(d.b[at+26:]))
	case at != 0:
		return fmt.Errorf("fattest: %s gets another size: no command does that", name)
	default:
		if first, err = d.allocate(int64(len(data)), 0); err != nil {
			return err
		}
	}
	for c, rest := first, data; len(rest) > 0; c = d.next(c) {
		rest = rest[copy(d.content(c), rest):]
	}
	if at != 0 {
		return nil
	}
	return d.add(dir, path.Base(name), 0x20, first, int64(len(data)))
}

var _ fat.Disk = (*memory)(nil)
