package fat

import (
	"math"
	"testing"
	"time"
)

// What is written is what is read: each field of a boot sector has one place.
func TestHeader(t *testing.T) {
	small := header{
		Sector: 2048, PerCluster: 2, Reserved: 3, FATs: 2, FATSectors: 17, RootEntries: 512, Total: 65535,
		Hidden: 2048, Serial: 0x12345678, Label: [11]byte([]byte("KAIROS ESP ")),
	}
	large := small
	large.FAT32, large.RootEntries, large.RootCluster, large.FATSectors = true, 0, 2, 70_000
	many := small
	many.Total = math.MaxUint32
	for _, h := range []header{small, large, many} {
		got, err := parseHeader(h.encode())
		if err != nil || got != h {
			t.Errorf("%+v, %v: want %+v", got, err, h)
		}
	}
}

func TestDirent(t *testing.T) {
	in := func(year int) time.Time { return time.Date(year, 2, 28, 23, 59, 58, 0, time.UTC) }
	for _, c := range []struct{ is, want time.Time }{
		{in(2026), in(2026)},
		{in(2026).Add(time.Second), in(2026)},
		{in(1970), time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)},
		{in(2108), time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)},
	} {
		d := shortDirent{Name: [11]byte([]byte("A       B  ")), Attr: attrArchive, Cluster: 0x01234567, Size: maxFile}
		d.Time = c.is
		want := d
		want.Time = c.want
		if got := parseDirent([direntSize]byte(d.encode())); got != want {
			t.Errorf("%+v: want %+v", got, want)
		}
	}
}

// A short name in small letters, as Windows NT, Linux and mtools keep it, is read as it was written.
func TestSmallLetters(t *testing.T) {
	for flags, want := range map[byte]string{
		0: "GRUB.CFG", stemIsSmall: "grub.CFG", extIsSmall: "GRUB.cfg", stemIsSmall | extIsSmall: "grub.cfg",
	} {
		if got := shortText(append([]byte("GRUB    CFG\x00"), flags)); got != want {
			t.Errorf("flags %x: %q, want %q", flags, got, want)
		}
	}
}
