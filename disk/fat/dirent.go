package fat

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
)

// shortDirent is the dirent with a file's 8.3 name.
type shortDirent struct {
	Name    [11]byte // 8 and 3 characters, padded with spaces
	Attr    byte
	Cluster uint32    // the first, 0 for none
	Size    uint32    // bytes; 0 for a folder
	Time    time.Time // when it was written; from 1980 to 2107, in steps of two seconds
}

// Encode returns the dirent. A time that FAT cannot say becomes the nearest one that it can.
func (d shortDirent) encode() []byte {
	date, clock := encodeTime(d.Time)
	b := make([]byte, direntSize)
	copy(b, d.Name[:])
	b[11] = d.Attr
	le.PutUint16(b[14:], clock) // created
	le.PutUint16(b[16:], date)
	le.PutUint16(b[18:], date) // accessed
	le.PutUint16(b[20:], uint16(d.Cluster>>16))
	le.PutUint16(b[22:], clock) // written
	le.PutUint16(b[24:], date)
	le.PutUint16(b[26:], uint16(d.Cluster))
	le.PutUint32(b[28:], d.Size)
	return b
}

func parseDirent(b [direntSize]byte) shortDirent {
	return shortDirent{
		Name:    [11]byte(b[:]),
		Attr:    b[11],
		Cluster: uint32(le.Uint16(b[26:])) | uint32(le.Uint16(b[20:]))<<16,
		Size:    le.Uint32(b[28:]),
		Time:    decodeTime(le.Uint16(b[24:]), le.Uint16(b[22:])),
	}
}

func encodeTime(t time.Time) (date, clock uint16) {
	t = t.UTC()
	if t.Year() < 1980 {
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if t.Year() > 2107 {
		t = time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)
	}
	date = uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day())
	clock = uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
	return date, clock
}

func decodeTime(date, clock uint16) time.Time {
	return time.Date(1980+int(date>>9), time.Month(date>>5&15), int(date&31),
		int(clock>>11), int(clock>>5&63), 2*int(clock&31), 0, time.UTC)
}

// shortAllowed are the characters of a short name beside letters and digits.
const shortAllowed = "$%'-_@~`!(){}^#&"

// shortName makes the 8.3 name of a file: the name itself where that is one, else one with
// a number that no other in the folder has.
func shortName(name string, used map[[11]byte]bool) [11]byte {
	clean := func(s string, limit int) string {
		s = strings.Map(func(r rune) rune {
			if r == ' ' || r == '.' {
				return -1
			}
			if r < 128 && (r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(shortAllowed, r)) {
				return r
			}
			return '_'
		}, strings.ToUpper(s))
		return s[:min(len(s), limit)]
	}
	stem, ext := name, ""
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		stem, ext = name[:i], name[i+1:]
	}
	form := func(stem string) [11]byte {
		return [11]byte(fmt.Appendf(nil, "%-8s%-3s", stem, clean(ext, 3)))
	}
	if short := form(clean(stem, 8)); isShort(name) && !used[short] {
		return short
	}
	for i := 1; ; i++ {
		tail := fmt.Sprintf("~%d", i)
		if short := form(clean(stem, 8-len(tail)) + tail); !used[short] {
			return short
		}
	}
}

// isShort says whether a name is its own 8.3 name, in capitals and all.
func isShort(name string) bool {
	stem, ext, _ := strings.Cut(name, ".")
	ok := func(s string, limit int) bool {
		return len(s) <= limit && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"+shortAllowed) == ""
	}
	return stem != "" && ok(stem, 8) && ok(ext, 3) && (ext != "" || !strings.Contains(name, "."))
}

// Flags in a dirent's byte 12: Windows NT, Linux and mtools keep a short name in small letters so.
const (
	stemIsSmall = 1 << 3
	extIsSmall  = 1 << 4
)

// shortText is the name that a dirent has, as a person writes it.
func shortText(b []byte) string {
	small := func(s string, flag byte) string {
		if s = strings.TrimRight(s, " "); b[12]&flag != 0 {
			return strings.ToLower(s)
		}
		return s
	}
	name := small(string(b[:8]), stemIsSmall)
	if ext := small(string(b[8:11]), extIsSmall); ext != "" {
		name += "." + ext
	}
	return name
}

// nameDirents returns the dirents of a file's long name, none where the name is its own short one.
func nameDirents(name string, short [11]byte) [][direntSize]byte {
	if isShort(name) {
		return nil
	}
	return longDirents(utf16.Encode([]rune(name)), shortSum(short))
}
