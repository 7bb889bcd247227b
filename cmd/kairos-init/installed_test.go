package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kairos-buildkit/kairos/layout"
)

const (
	idA = "0123456789ab"
	idB = "ba9876543210"
)

func TestOrigin(t *testing.T) {
	const esp = "11111111-2222-3333-4444-55555555555F"
	entry := `\EFI\Linux\kairos-00000007-` + idA + `+2-1.efi`
	for name, c := range map[string]struct {
		cmdline   string
		variables map[string]string
		want      origin
	}{
		"live by UEFI": {"quiet", map[string]string{stubImage: `\EFI\BOOT\BOOTX64.EFI`, loaderPart: esp},
			origin{boot: layout.Boot{Role: layout.RoleLive, Firmware: "uefi"}}},
		"live without variables": {"quiet", nil, origin{boot: layout.Boot{Role: layout.RoleLive, Firmware: "uefi"}}},
		"live by GRUB": {"kairos.live kairos.release=" + idA, map[string]string{stubImage: entry, loaderPart: esp},
			origin{boot: layout.Boot{Role: layout.RoleLive, Firmware: "uefi", Release: idA}}},
		"on trial": {"", map[string]string{stubImage: entry, loaderPart: esp},
			origin{esp: strings.ToLower(esp), boot: layout.Boot{Role: layout.RoleSystem, Firmware: "uefi", Release: idA, Trial: true, Entry: entry[11:]}}},
		"blessed, without a loader": {"", map[string]string{stubImage: "kairos-00000007-" + idA + ".efi", stubPart: esp},
			origin{esp: strings.ToLower(esp), boot: layout.Boot{Role: layout.RoleSystem, Firmware: "uefi", Release: idA, Entry: "kairos-00000007-" + idA + ".efi"}}},
		"recovery": {"", map[string]string{stubImage: `\EFI\Linux\kairos-00000000-` + idB + `.efi`, loaderPart: esp},
			origin{esp: strings.ToLower(esp), boot: layout.Boot{Role: layout.RoleRecovery, Firmware: "uefi", Release: idB, Entry: "kairos-00000000-" + idB + ".efi"}}},
		"GRUB": {"kairos.release=" + idA + " kairos.esp=" + esp, nil,
			origin{esp: strings.ToLower(esp), boot: layout.Boot{Role: layout.RoleSystem, Firmware: "uefi", Release: idA}}},
		"GRUB on trial": {"kairos.release=" + idA + " kairos.esp=" + esp + " kairos.tries=0", nil,
			origin{esp: strings.ToLower(esp), boot: layout.Boot{Role: layout.RoleSystem, Firmware: "uefi", Release: idA, Trial: true}}},
		"GRUB's recovery": {"kairos.release=" + idA + " kairos.esp=" + esp + " kairos.role=recovery", nil,
			origin{esp: strings.ToLower(esp), boot: layout.Boot{Role: layout.RoleRecovery, Firmware: "uefi", Release: idA}}},
	} {
		got, err := parseOrigin(layout.ParseCmdline(c.cmdline), "uefi", func(v string) string { return c.variables[v] })
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(c.want, got, cmp.AllowUnexported(origin{})); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	if _, err := parseOrigin(nil, "uefi", func(v string) string { return map[string]string{stubImage: entry}[v] }); err == nil {
		t.Error("an installed system without its partition was accepted")
	}
}

func TestEFIText(t *testing.T) {
	if got := parseEFIText([]byte{6, 0, 0, 0, 'a', 0, 'b', 0, 0, 0, 'x', 0}); got != "ab" {
		t.Errorf("%q", got)
	}
	for _, b := range []string{"", "abc", "abcd", "abcde"} {
		if got := parseEFIText([]byte(b)); got != "" {
			t.Errorf("%q: %q", b, got)
		}
	}
}

func TestWhatStartsNext(t *testing.T) {
	entry := func(seq uint32, id string, left int) string {
		e := layout.Entry{Seq: seq, ID: id}
		if left >= 0 {
			e.Counted, e.Left, e.Done = true, uint8(left), uint8(3-left)
		}
		return e.String()
	}
	all := []string{entry(0, idB, -1), entry(5, idA, -1), entry(7, idB, -1), entry(6, idA, 0), "readme.txt"}
	for _, c := range []struct{ booted, want string }{
		{entry(7, idB, -1), entry(5, idA, -1)}, // seq 6 is bad
		{entry(5, idA, -1), entry(0, idB, -1)},
		{entry(0, idB, -1), ""},
		{"linux.efi", ""},
	} {
		got, ok := entryBelow(c.booted, all)
		if ok != (c.want != "") || ok && got != c.want {
			t.Errorf("after %s: %s %v, want %s", c.booted, got, ok, c.want)
		}
	}
	if got, _ := entryBelow(entry(9, idB, -1), []string{entry(8, idA, 2)}); got != entry(8, idA, -1) {
		t.Errorf("the loader names entries without their counter: %s", got)
	}

	state := layout.GrubState{Entries: []layout.Entry{{Seq: 7, ID: idB}, {Seq: 6, ID: idA, Counted: true}, {Seq: 5, ID: "aaaaaaaaaaaa"}}, Recovery: idA}
	for booted, want := range map[string]string{idB: "3", "aaaaaaaaaaaa": "recovery", "cccccccccccc": "recovery"} {
		if got := slotBelow(booted, state); got != want {
			t.Errorf("GRUB after %s: %q, want %q", booted, got, want)
		}
	}
}

// The table is written by sgdisk, read and grown by us, and judged by sgdisk.
func TestGrownTable(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	run := func(program string, args ...string) string {
		t.Helper()
		out, err := exec.Command(program, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v (package gdisk): %v\n%s", program, args, err, out)
		}
		return string(out)
	}
	truncate := func(size int64) {
		t.Helper()
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	truncate(64 << 20)
	run("sgdisk", "-n", "1:2048:+8M", "-c", "1:efi", "-u", "1:11111111-2222-3333-4444-55555555555F", "-n", "2:0:+16M", "-c", "2:persistent", name)

	load := func() *gpt {
		t.Helper()
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, _ := f.Stat()
		g, err := readGPT(f, info.Size(), 512)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	g := load()
	if !g.has("11111111-2222-3333-4444-55555555555f") || g.has("11111111-2222-3333-4444-555555555550") {
		t.Errorf("%+v", g.parts)
	}
	if _, changed := g.grow("efi"); changed {
		t.Error("a partition grew that is not the last")
	}

	truncate(1 << 30)
	g = load()
	p, changed := g.grow("persistent")
	if !changed || p.number != 2 || p.last != (1<<30)/512-2048-1 {
		t.Errorf("%+v %v", p, changed)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mbr := make([]byte, 512)
	if _, err := f.ReadAt(mbr, 0); err != nil {
		t.Fatal(err)
	}
	if err := g.write(f, mbr, f.Sync); err != nil {
		t.Fatal(err)
	}
	if out := run("sgdisk", "-v", name); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v:\n%s", out)
	}
	again := load()
	if d := cmp.Diff(g.parts, again.parts, cmp.AllowUnexported(partition{})); d != "" {
		t.Error(d)
	}
	if _, changed := again.grow("persistent"); changed {
		t.Error("it grows a second time")
	}
	// The copy serves when the first table is damaged.
	if _, err := f.WriteAt(make([]byte, 512), 512); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(g.parts, load().parts, cmp.AllowUnexported(partition{})); d != "" {
		t.Error(d)
	}
}

func TestBrokenTables(t *testing.T) {
	for _, size := range []int{0, 512, 68 * 512, 1 << 20} {
		if _, err := readGPT(bytes.NewReader(make([]byte, size)), int64(size), 512); err == nil {
			t.Errorf("%d zero bytes accepted", size)
		}
	}
}

func FuzzGPT(f *testing.F) {
	f.Add(make([]byte, 68*512))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, err := readGPT(bytes.NewReader(b), int64(len(b)), 512); err == nil {
			g.grow("persistent")
		}
	})
}

func TestMachineID(t *testing.T) {
	id := string(newMachineID())
	if !validMachineID(id) || id == string(newMachineID()) {
		t.Errorf("%q", id)
	}
	for _, bad := range []string{"", "uninitialized", "x", strings.Repeat("0", 32), strings.Repeat("g", 32)} {
		if validMachineID(bad) {
			t.Errorf("%q is valid", bad)
		}
	}
}

func TestOutermost(t *testing.T) {
	got := outermost([]string{"/var", "/etc/ssh", "/home", "/etc", "/var/log/x", "/homes", "/home"})
	if d := cmp.Diff([]string{"/etc", "/home", "/homes", "/var"}, got); d != "" {
		t.Error(d)
	}
}

func TestLastLinesAreWhole(t *testing.T) {
	if got := string(lastLines([]byte("one\ntwo\nthree\n"), 8)); got != "three\n" {
		t.Errorf("%q", got)
	}
	if got := string(lastLines([]byte("one\n"), 8)); got != "one\n" {
		t.Errorf("%q", got)
	}
}

func TestDeadline(t *testing.T) {
	for cmdline, want := range map[string]int{"": layout.BlessDeadline, "kairos.deadline=30": 30, "kairos.deadline=-1": layout.BlessDeadline, "kairos.deadline=x": layout.BlessDeadline} {
		if got := deadline(layout.ParseCmdline(cmdline)); got != want {
			t.Errorf("%q: %d, want %d", cmdline, got, want)
		}
	}
}
