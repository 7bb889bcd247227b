package efivars

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// What is written is read again, and what was read from anywhere can be written.
func FuzzText(f *testing.F) {
	f.Add("kairos-00000007-0123456789ab+2-1.efi", []byte{'a', 0, 0, 0})
	f.Add("\U0001f427", []byte{0x3d, 0xd8})
	f.Fuzz(func(t *testing.T, text string, content []byte) {
		if utf8.ValidString(text) && !strings.Contains(text, "\x00") {
			if got := Text(FromText(text)); got != text {
				t.Errorf("%q was read as %q", text, got)
			}
		}
		read := Text(content)
		if got := Text(FromText(read)); got != read {
			t.Errorf("%q was read as %q", read, got)
		}
		parse(content)
	})
}

// An entry is read as what was written, and starts the same as another only where partition and program are the same.
func FuzzEntry(f *testing.F) {
	f.Add("Kairos", "EFI/BOOT/BOOTX64.EFI", 2, int64(4096), int64(1<<20), []byte{1, 2})
	f.Add("a\x00b", "\\", 1<<31, int64(-1), int64(0), []byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, description, path string, partition int, first, size int64, id []byte) {
		guid := sha256.Sum256(id)
		e := Entry{Description: description, Path: path, Partition: partition, First: first, Size: size,
			GUID: hex.EncodeToString(guid[:16])}
		b, err := e.Marshal()
		if err != nil || len(b) > 1<<16 {
			return
		}
		if !utf8.ValidString(description) || !utf8.ValidString(path) || strings.Contains(description+path, "\x00") {
			parse(b)
			return
		}
		device, name, ok := parse(b)
		if !ok || name != description || !strings.HasSuffix(string(device), "\x7f\xff\x04\x00") {
			t.Fatalf("%q, %x, %v", name, device, ok)
		}
		other := e
		other.Description += "x"
		renamed, err := other.Marshal()
		if err != nil || !same(b, renamed) {
			t.Errorf("%x and %x start the same (%v)", b, renamed, err)
		}
		other.First++
		moved, err := other.Marshal()
		if err != nil || same(b, moved) {
			t.Errorf("%x and %x start the same (%v)", b, moved, err)
		}
	})
}

var onDisk = Entry{
	Description: "Kairos", Partition: 2, First: 4096, Size: 1048576,
	GUID: "01234567-89ab-cdef-0123-456789abcdef", Path: "EFI/BOOT/BOOTX64.EFI",
}

func marshal(t *testing.T, e Entry) []byte {
	t.Helper()
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes are those that the UEFI specification draws (3.1.3, 10.3.5.1, 10.3.5.4).
func TestEntry(t *testing.T) {
	want := strings.Join([]string{
		"01000000", "5e00", // active; the path has 42 + 48 + 4 bytes
		"4b006100690072006f0073000000", // Kairos
		"04012a00", "02000000", "0010000000000000", "0000100000000000",
		"67452301ab89efcd0123456789abcdef", "0202",
		"04043000", hex.EncodeToString(FromText(`\EFI\BOOT\BOOTX64.EFI`)),
		"7fff0400",
	}, "")
	if got := hex.EncodeToString(marshal(t, onDisk)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if _, err := (Entry{GUID: "x"}).Marshal(); err == nil {
		t.Error("a GUID that is none was accepted")
	}
}

func TestPrefer(t *testing.T) {
	ours := marshal(t, onDisk)
	renamed := onDisk
	renamed.Description = "UEFI QEMU HARDDISK"
	other := onDisk
	other.GUID = "ffffffff-89ab-cdef-0123-456789abcdef"
	cd := []byte{1, 0, 0, 0, 4, 0, 'C', 0, 0, 0, 0x7f, 0xff, 4, 0}
	for name, c := range map[string]struct {
		have   Boot
		number uint16
		order  []uint16
	}{
		"empty":             {Boot{}, 0, []uint16{0}},
		"behind the medium": {Boot{map[uint16][]byte{0: cd, 2: ours}, []uint16{0, 2}}, 2, []uint16{2, 0}},
		"another disk's": {Boot{map[uint16][]byte{0: marshal(t, other), 1: cd}, []uint16{0, 1}}, 2,
			[]uint16{2, 0, 1}},
		"the firmware's name": {Boot{map[uint16][]byte{0: cd, 7: marshal(t, renamed)}, []uint16{0}}, 7,
			[]uint16{7, 0}},
		"twice":         {Boot{map[uint16][]byte{3: ours, 4: ours}, []uint16{4, 3}}, 3, []uint16{3, 4}},
		"first already": {Boot{map[uint16][]byte{3: ours}, []uint16{3, 1}}, 3, []uint16{3, 1}},
		"damaged":       {Boot{map[uint16][]byte{0: {1, 2}, 1: nil}, []uint16{0}}, 1, []uint16{1, 0}},
	} {
		number, order := c.have.Prefer(ours)
		if number != c.number || !slices.Equal(order, c.order) {
			t.Errorf("%s: %d, %v", name, number, order)
		}
	}
}

func TestDir(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.Check(); !errors.Is(err, ErrUnreadable) {
		t.Errorf("no variables: %v", err)
	}
	if err := Dir("/nonexistent").Check(); !errors.Is(err, ErrUnreadable) {
		t.Errorf("no directory: %v", err)
	}
	if _, err := d.Read("X", Kairos); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := d.Write("X", Kairos, FromText("one")); err != nil {
		t.Fatal(err)
	}
	b, err := d.Read("X", Kairos)
	if err != nil || Text(b) != "one" {
		t.Errorf("%q, %v", Text(b), err)
	}
	raw, _ := os.ReadFile(filepath.Join(string(d), "X-"+Kairos))
	if raw[0] != 7 {
		t.Errorf("attributes %d", raw[0])
	}
	if err := errors.Join(d.Check(), d.Remove("X", Kairos), d.Remove("X", Kairos)); err != nil {
		t.Error(err)
	}
	// A file without attributes is no variable.
	os.WriteFile(filepath.Join(string(d), "Y-"+Kairos), []byte{7}, 0o644)
	if _, err := d.Read("Y", Kairos); err == nil {
		t.Error("a variable of one byte was read")
	}
}

func TestPreferOnAMachine(t *testing.T) {
	d := Dir(t.TempDir())
	old := onDisk
	old.GUID = "ffffffff-89ab-cdef-0123-456789abcdef"
	before := map[string][]byte{"Boot0000": marshal(t, old), "BootOrder": {0, 0}, "BootOptionSupport": {1}}
	for name, content := range before {
		if err := d.Write(name, Global, content); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time changes nothing
		if err := d.Prefer(onDisk); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"BootOrder": "01000000", "BootNext": "0100", "Boot0001": hex.EncodeToString(marshal(t, onDisk)),
		} {
			b, err := d.Read(name, Global)
			if err != nil || hex.EncodeToString(b) != want {
				t.Errorf("%s: %x, %v", name, b, err)
			}
		}
	}
	// Full, or protected: it is said, with what to do.
	for _, e := range []error{unix.ENOSPC, unix.EPERM, unix.EROFS} {
		if err := explain("write", "BootOrder", e); !errors.Is(err, e) || !strings.Contains(err.Error(), "setup") {
			t.Error(err)
		}
	}
}
