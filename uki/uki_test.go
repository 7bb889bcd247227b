package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
		{
			Name: OSRel,
			Data: []byte("ID=kairos\n"),
		}, {Name: Cmdline, Data: []byte("console=ttyS0")}, {Name: Uname, Data: []byte("6.12.1")},
		{
			Name: Initrd,
			Data: bytes.Repeat([]byte("initrd"), 1000),
		}, {Name: Linux, Data: bytes.Repeat([]byte{1, 2, 3}, 12345)},
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
		if s.Offset%opt.FileAlignment != 0 || s.Size%opt.FileAlignment != 0 || s.Offset < disk ||
			s.Size < s.VirtualSize {
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
	b, err := exec.Command("objcopy", "-O", "binary", "--dump-section", ".linux="+out, name,
		"/dev/null").CombinedOutput()
	if err != nil {
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
		"not PE":     {[]byte("hello"), sample(), "not a PE file"},
		"empty":      {nil, sample(), "not a PE file"},
		"truncated":  {stub(20)[:0x100], sample(), "not a PE32+ file"},
		"signed":     {signed, sample(), "unsigned"},
		"no room":    {stub(3), slices.Repeat([]Section{{Name: Profile, Data: []byte("x")}}, 110), "no room"},
		"long name":  {stub(20), []Section{{Name: ".toolongname", Data: []byte("x")}}, "1 to 8 bytes"},
		"empty data": {stub(20), []Section{{Name: ".linux", Data: nil}}, "empty"},
		"twice": {stub(20), []Section{{Name: ".linux", Data: []byte("x")}, {Name: ".linux", Data: []byte("x")}},
			"already"},
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

// A program that we did not write computes the same digest, and a signature does not change it.
func TestAuthenticode(t *testing.T) {
	file, err := Append(stub(20), sample())
	if err != nil {
		t.Fatal(err)
	}
	want, err := Authenticode(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("os.efi"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s (packages openssl, osslsigncode): %v\n%s", name, err, out)
		}
		return string(out)
	}
	run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test",
		"-keyout", path("key"), "-out", path("cert"))
	run("osslsigncode", "sign", "-h", "sha256", "-certs", path("cert"), "-key", path("key"),
		"-in", path("os.efi"), "-out", path("signed.efi"))
	out := run("osslsigncode", "verify", "-CAfile", path("cert"), path("signed.efi"))
	if hex := strings.ToUpper(fmt.Sprintf("%x", want)); !strings.Contains(out, hex) {
		t.Errorf("osslsigncode does not find the digest %s:\n%s", hex, out)
	}
	signed, err := os.ReadFile(path("signed.efi"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Authenticode(signed); err != nil || got != want || len(signed) <= len(file) {
		t.Errorf("signed: %x, %v; want %x", got, err, want)
	}
	changed := bytes.Clone(file)
	changed[len(changed)-1] ^= 1
	if got, err := Authenticode(changed); err != nil || got == want {
		t.Errorf("changed: %x, %v", got, err)
	}
	for name, bad := range map[string][]byte{
		"text": []byte("no program"), "cut in its certificates": signed[:len(signed)-8],
	} {
		if _, err := Authenticode(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What a boot loader lists the file by comes before what is large, so that a file without its end is listed, tried and
// counted. In memory the order is that of the sections.
func TestListedByItsBeginning(t *testing.T) {
	file, err := Append(stub(20), []Section{
		{Name: OSRel, Data: []byte("ID=x\n")}, {Name: Initrd, Data: make([]byte, 3*small), Align: 8 << 10},
		{Name: Linux, Data: make([]byte, 2*small)}, {Name: Profile, Data: []byte("ID=main\n")},
		{Name: Profile, Data: []byte("ID=other\n")}, {Name: Cmdline, Data: []byte("x")},
	})
	if err != nil {
		t.Fatal(err)
	}
	h, err := parse(file)
	if err != nil {
		t.Fatal(err)
	}
	var large, little, address uint32 = 1 << 31, 0, 0
	for _, s := range h.sections[1:] {
		if s.virtualSize >= small {
			large = min(large, s.offset)
		} else {
			little = max(little, s.offset)
		}
		if s.address <= address {
			t.Errorf("%s is at %#x in memory, behind %#x", s.name, s.address, address)
		}
		address = s.address
	}
	if little >= large {
		t.Errorf("a small section is at %d, a large one at %d", little, large)
	}
}
