package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// stub returns a PE32+ program with one section and room for n section headers in all.
func stub(n int) []byte {
	const peAt, optionalSize, fileAlignment = 0x40, 112 + 16*8, 0x200
	table := peAt + 4 + coffSize + optionalSize
	headers := int(align(uint64(table+n*sectionSize), fileAlignment))
	b := make([]byte, headers+fileAlignment)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], peAt)
	copy(b[peAt:], "PE\x00\x00")
	coff := b[peAt+4:]
	le.PutUint16(coff, 0x8664)
	le.PutUint16(coff[coffSections:], 1)
	le.PutUint16(coff[coffOptionalSize:], optionalSize)
	le.PutUint16(coff[18:], 0x22e)
	opt := coff[coffSize:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[optSectionAlignment:], 0x1000)
	le.PutUint32(opt[optFileAlignment:], fileAlignment)
	le.PutUint32(opt[optSizeOfImage:], 0x2000)
	le.PutUint32(opt[optSizeOfHeaders:], uint32(headers))
	le.PutUint16(opt[68:], 10) // EFI application
	le.PutUint32(opt[optDirectories:], 16)
	text := b[table:]
	copy(text, ".text")
	for offset, v := range map[int]uint32{8: 5, 12: 0x1000, 16: fileAlignment, 20: uint32(headers), 36: 0x60000020} {
		le.PutUint32(text[offset:], v)
	}
	copy(b[headers:], "code!")
	return b
}

func sample() []Section {
	return []Section{
		{Name: OSRel, Data: []byte("ID=kairos\n")}, {Name: Cmdline, Data: []byte("console=ttyS0")}, {Name: Uname, Data: []byte("6.12.1")},
		{Name: Initrd, Data: bytes.Repeat([]byte("initrd"), 1000)}, {Name: Linux, Data: bytes.Repeat([]byte{1, 2, 3}, 12345)},
	}
}

func TestAppendedSectionsAreFound(t *testing.T) {
	file, err := Append(stub(20), sample())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Sections(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(append([]Section{{Name: ".text", Data: []byte("code!")}}, sample()...), got); d != "" {
		t.Error(d)
	}
	again, err := Append(stub(20), sample())
	if err != nil || !bytes.Equal(file, again) {
		t.Error("two runs differ", err)
	}
}

// A section that asks for it begins where it wants to. No bytes are between sections: tools
// that sign programs hash these only.
func TestAlignedSection(t *testing.T) {
	sections := sample()
	sections[3].Align = 128 << 10
	file, err := Append(stub(20), sections)
	if err != nil {
		t.Fatal(err)
	}
	h, err := parse(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range h.sections[1:] {
		if s.name == Initrd && s.offset != 128<<10 {
			t.Errorf("%s begins at %#x", s.name, s.offset)
		}
		if before := h.sections[i]; i > 0 && s.offset != before.offset+before.size {
			t.Errorf("%s begins at %#x, the section before ends at %#x", s.name, s.offset, before.offset+before.size)
		}
	}
	got, err := Sections(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(append([]Section{{Name: ".text", Data: []byte("code!")}}, sample()...), got); d != "" {
		t.Error(d)
	}
}

// What firmware checks when it loads the file: alignment, order, no overlap, sizes.
func TestHeadersHoldTogether(t *testing.T) {
	file, err := Append(stub(20), sample())
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	opt := f.OptionalHeader.(*pe.OptionalHeader64)
	memory, disk := uint32(0), opt.SizeOfHeaders
	for _, s := range f.Sections {
		if s.VirtualAddress%opt.SectionAlignment != 0 || s.VirtualAddress < memory {
			t.Errorf("%s: address %#x, the section before ends at %#x", s.Name, s.VirtualAddress, memory)
		}
		if s.Offset%opt.FileAlignment != 0 || s.Size%opt.FileAlignment != 0 || s.Offset < disk || s.Size < s.VirtualSize {
			t.Errorf("%s: offset %#x size %#x, the section before ends at %#x", s.Name, s.Offset, s.Size, disk)
		}
		memory, disk = s.VirtualAddress+s.VirtualSize, s.Offset+s.Size
	}
	if want := uint32(align(uint64(memory), opt.SectionAlignment)); opt.SizeOfImage != want {
		t.Errorf("SizeOfImage %#x, want %#x", opt.SizeOfImage, want)
	}
	if int(disk) != len(file) {
		t.Errorf("the file has %d bytes, its sections end at %d", len(file), disk)
	}
	// The definition of the checksum, the slow way: with the field zeroed.
	zeroed := bytes.Clone(file)
	field := int(binary.LittleEndian.Uint32(file[0x3c:])) + 4 + coffSize + optCheckSum
	clear(zeroed[field : field+4])
	if want := checksum(zeroed, len(zeroed)+1); opt.CheckSum != want || opt.CheckSum == 0 {
		t.Errorf("CheckSum %#x, want %#x", opt.CheckSum, want)
	}
}

func TestForeignToolsReadIt(t *testing.T) {
	file, err := Append(stub(20), sample())
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "kairos.efi")
	if err := os.WriteFile(name, file, 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "linux")
	if b, err := exec.Command("objcopy", "-O", "binary", "--dump-section", ".linux="+out, name, "/dev/null").CombinedOutput(); err != nil {
		t.Fatalf("objcopy (package binutils): %v\n%s", err, b)
	}
	got, err := os.ReadFile(out)
	if err != nil || !bytes.HasPrefix(got, sample()[4].Data) {
		t.Errorf("objcopy reads another .linux (%v)", err)
	}
}

func TestAppendRejects(t *testing.T) {
	signed := stub(20)
	le.PutUint32(signed[0x40+4+coffSize+optCertificates+4:], 8)
	for name, c := range map[string]struct {
		stub     []byte
		sections []Section
		want     string
	}{
		"not PE":      {[]byte("hello"), sample(), "not a PE file"},
		"empty":       {nil, sample(), "not a PE file"},
		"truncated":   {stub(20)[:0x100], sample(), "not a PE32+ file"},
		"signed":      {signed, sample(), "unsigned"},
		"no room":     {stub(3), append(sample(), sample()...)[:5], "no room"},
		"long name":   {stub(20), []Section{{Name: ".toolongname", Data: []byte("x")}}, "1 to 8 bytes"},
		"empty data":  {stub(20), []Section{{Name: ".linux", Data: nil}}, "empty"},
		"twice":       {stub(20), []Section{{Name: ".linux", Data: []byte("x")}, {Name: ".linux", Data: []byte("x")}}, "already"},
		"alignment":   {stub(20), []Section{{Name: ".linux", Data: []byte("x"), Align: 3 << 10}}, "power of two"},
		"stub has it": {stub(20), []Section{{Name: ".text", Data: []byte("x")}}, "already"},
	} {
		_, err := Append(c.stub, c.sections)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestArch(t *testing.T) {
	if a, err := Arch(stub(1)); a != "amd64" || err != nil {
		t.Error(a, err)
	}
	arm := stub(1)
	le.PutUint16(arm[0x44:], 0xaa64)
	if a, err := Arch(arm); a != "arm64" || err != nil {
		t.Error(a, err)
	}
	le.PutUint16(arm[0x44:], 0x14c)
	if _, err := Arch(arm); err == nil {
		t.Error("i386 accepted")
	}
}

func FuzzAppend(f *testing.F) {
	f.Add(stub(20), ".linux", []byte("kernel"))
	f.Add(stub(2), ".a", []byte{0})
	f.Fuzz(func(t *testing.T, file []byte, name string, data []byte) {
		before, err := Sections(file)
		if err != nil {
			return
		}
		out, err := Append(file, []Section{{Name: name, Data: data}})
		if err != nil {
			return
		}
		after, err := Sections(out)
		if err != nil {
			t.Fatalf("what Append made cannot be read: %v", err)
		}
		if d := cmp.Diff(append(before, Section{Name: name, Data: data}), after); d != "" {
			t.Error(d)
		}
	})
}
