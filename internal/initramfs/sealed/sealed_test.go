package sealed_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/internal/initramfs/medium"
	"github.com/kairos-buildkit/kairos/internal/initramfs/sealed"
	"github.com/kairos-buildkit/kairos/internal/tpm"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
	"github.com/kairos-buildkit/kairos/trust/trusttest"
	"github.com/kairos-buildkit/kairos/uki"
)

func newKey(t *testing.T) sign.Key { return trusttest.Key(t, trust.ECDSA) }

// read writes trust.json as an initrd has it and reads it as /init does.
func read(t *testing.T, a trust.Anchor) *sealed.Seal {
	t.Helper()
	b, err := a.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := sealed.Read(name, &console.Log{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func anchor(words []string, keys ...sign.Key) trust.Anchor {
	a := trusttest.Anchor(1, keys...)
	a.Epoch, a.Cmdline = 2, words
	return a
}

func release() layout.Release {
	d := layout.SHA256([32]byte{7})
	l := layout.Layer{DiffID: d, Size: 4096, RootHash: d.Hex()}
	return layout.Release{
		Version: "v1", Config: d, Arch: runtime.GOARCH, Epoch: 2, Layers: []layout.Layer{l, l, l},
	}
}

// disk writes a release into a store, with the signatures of keys over another record where one is given.
func disk(t *testing.T, r, signed layout.Release, keys ...sign.Key) medium.Source {
	t.Helper()
	store := t.TempDir()
	put := func(name string, b []byte, err error) {
		t.Helper()
		name = filepath.Join(store, name)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(name), 0o755)
		}
		if err == nil {
			err = os.WriteFile(name, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := r.Marshal()
	put(layout.ReleasePath(r.ID()), b, err)
	if len(keys) > 0 {
		put(layout.ReleaseSignaturesPath(r.ID()), trusttest.Signed(t, signed, keys...), nil)
	}
	return medium.Source{Device: "/dev/vda5", Store: store, Boot: layout.Boot{Release: r.ID()}}
}

// What a disk has is refused unless the initrd's keys have signed exactly that.
func TestSealedRelease(t *testing.T) {
	key, second := newKey(t), newKey(t)
	stranger := newKey(t)
	change := func(do func(*layout.Release)) layout.Release {
		r := release()
		do(&r)
		return r
	}
	good := release()
	for name, c := range map[string]struct {
		anchor trust.Anchor
		source medium.Source
		want   string // "": it boots
	}{
		"signed":            {anchor(nil, key), disk(t, good, good, key), ""},
		"and by a stranger": {anchor(nil, key), disk(t, good, good, stranger, key), ""},
		"not signed":        {anchor(nil, key), disk(t, good, good), "it is not signed"},
		"by a stranger":     {anchor(nil, key), disk(t, good, good, stranger), string(key.ID) + ": it has not signed"},
		"one of two": {func() trust.Anchor {
			a := anchor(nil, key, second)
			a.Threshold = 2
			return a
		}(), disk(t, good, good, key), string(second.ID)},
		"the top layer dropped": {anchor(nil, key), disk(t, change(func(r *layout.Release) {
			r.Layers = r.Layers[:2]
		}), good, key), "is not one of this release.json"},
		"layers reordered": {anchor(nil, key), disk(t, change(func(r *layout.Release) {
			r.Layers[0].Size = 8192
		}), change(func(r *layout.Release) { r.Layers[2].Size = 8192 }), key), "is not one of this release.json"},
		"a root exchanged": {anchor(nil, key), disk(t, change(func(r *layout.Release) {
			r.Layers[1].RootHash = strings.Repeat("b", 64)
		}), good, key), "is not one of this release.json"},
		"another release's signatures": {anchor(nil, key), disk(t, good, change(func(r *layout.Release) {
			r.Version = "v2"
		}), key), "is not one of this release.json"},
		"an old one": {anchor(nil, key), disk(t, change(func(r *layout.Release) { r.Epoch = 1 }),
			change(func(r *layout.Release) { r.Epoch = 1 }), key), "its epoch is 1"},
		"another architecture": {anchor(nil, key), disk(t, change(func(r *layout.Release) { r.Arch = "x" }),
			change(func(r *layout.Release) { r.Arch = "x" }), key), "it is for x"},
	} {
		boots := func(a trust.Anchor) (*sealed.Seal, error) {
			s, source := read(t, a), c.source
			r, err := source.Release()
			if err != nil {
				t.Fatal(err)
			}
			return s, s.Release(r)
		}
		_, err := boots(c.anchor)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		// Where it only warns, the same is said, and boots.
		c.anchor.Warn = true
		s, err := boots(c.anchor)
		if err != nil || (c.want != "") != (len(s.Problems) == 1) {
			t.Errorf("%s, only warned of: %v, %q", name, err, s.Problems)
		}
	}
}

// What the TPM holds is asked for where trust.json says so, of each role apart. A TPM that is not there, or breaks, is
// said, and the machine starts.
func TestSealedFloor(t *testing.T) {
	key := newKey(t)
	floors := tpm.Floors{System: 3, Recovery: 2} // the release has epoch 2
	for name, c := range map[string]struct {
		tpm      bool
		role     string
		floors   tpm.Floors
		err      error
		refused  bool
		problems int
	}{
		"not asked for":       {false, layout.RoleSystem, floors, nil, false, 0},
		"the system":          {true, layout.RoleSystem, floors, nil, true, 0},
		"a live medium":       {true, layout.RoleLive, floors, nil, true, 0},
		"the recovery system": {true, layout.RoleRecovery, floors, nil, false, 0},
		"equal":               {true, layout.RoleSystem, tpm.Floors{System: 2}, nil, false, 0},
		"a recovery's above":  {true, layout.RoleRecovery, tpm.Floors{Recovery: 3}, nil, true, 0},
		"never raised":        {true, layout.RoleSystem, tpm.Floors{}, nil, false, 0},
		"no TPM":              {true, layout.RoleSystem, tpm.Floors{}, tpm.ErrNone, false, 0},
		"a broken TPM":        {true, layout.RoleSystem, tpm.Floors{}, errors.New("it is broken"), false, 1},
	} {
		a := anchor(nil, key)
		a.TPM = c.tpm
		read := func(a trust.Anchor) (*sealed.Seal, error) {
			s := read(t, a)
			return s, s.Floor(release(), c.role, func() (tpm.Floors, error) { return c.floors, c.err })
		}
		s, err := read(a)
		if c.refused != (err != nil && strings.Contains(err.Error(), "this machine's TPM holds 3 as the lowest")) ||
			len(s.Problems) != c.problems {
			t.Errorf("%s: %v, %q", name, err, s.Problems)
		}
		a.Warn = true
		if s, err := read(a); err != nil || c.refused != (len(s.Problems) > c.problems) {
			t.Errorf("%s, only warned of: %v, %q", name, err, s.Problems)
		}
	}
}

// Without trust.json all is as it was; with one that is damaged nothing boots.
func TestUnsealed(t *testing.T) {
	dir := t.TempDir()
	s, err := sealed.Read(filepath.Join(dir, "trust.json"), &console.Log{})
	if s != nil || err != nil {
		t.Fatalf("%+v, %v", s, err)
	}
	words := layout.ParseCmdline("init=/bin/sh kairos.esp=x")
	if got, err := s.Cmdline(words, layout.FirmwareUEFI); err != nil || got.String() != words.String() {
		t.Errorf("%q, %v", got, err)
	}
	if err := s.Release(release()); err != nil {
		t.Error(err)
	}
	if err := s.UKI(nil, "", release()); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "trust.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if s, err := sealed.Read(filepath.Join(dir, "trust.json"), &console.Log{}); s != nil || err == nil {
		t.Errorf("%+v, %v", s, err)
	}
}

// Only words that the image has, or allows, get a machine to boot.
func TestSealedCmdline(t *testing.T) {
	a := anchor([]string{"kairos.config_url=", "kairos.live", "panic=10", "quiet"}, newKey(t))
	for name, c := range map[string]struct{ cmdline, firmware, refused string }{
		"the image's":         {"quiet panic=10", layout.FirmwareUEFI, ""},
		"with any value":      {"quiet kairos.config_url=https://x.example/", layout.FirmwareUEFI, ""},
		"an init":             {"quiet init=/bin/sh", layout.FirmwareUEFI, `"init=/bin/sh"`},
		"another value":       {"quiet panic=0", layout.FirmwareUEFI, `"panic=0"`},
		"a node's disk":       {"quiet kairos.esp=x", layout.FirmwareUEFI, `"kairos.esp=x"`},
		"a release":           {"kairos.release=x quiet", layout.FirmwareUEFI, `"kairos.release=x"`},
		"debug":               {"kairos.debug", layout.FirmwareUEFI, `"kairos.debug"`},
		"systemd's shell":     {"systemd.debug_shell", layout.FirmwareUEFI, `"systemd.debug_shell"`},
		"quoted":              {`"quiet init=/bin/sh"`, layout.FirmwareUEFI, `init=/bin/sh`},
		"GRUB's under BIOS":   {"BOOT_IMAGE=/x quiet kairos.esp=x kairos.release=y", layout.FirmwareBIOS, ""},
		"an init under BIOS":  {"quiet init=/bin/sh", layout.FirmwareBIOS, `"init=/bin/sh"`},
		"a value's beginning": {"kairos.config_url", layout.FirmwareUEFI, `"kairos.config_url"`},
	} {
		got, err := read(t, a).Cmdline(layout.ParseCmdline(c.cmdline), c.firmware)
		switch {
		case c.refused == "" && (err != nil || got.String() != c.cmdline):
			t.Errorf("%s: %q, %v", name, got, err)
		case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%s: %v, want %s", name, err, c.refused)
		case c.refused != "" && strings.Contains(got.String(), strings.Trim(c.refused, `"`)):
			t.Errorf("%s: obeyed: %q", name, got)
		}
		a := a
		a.Warn = true
		s := read(t, a)
		got, err = s.Cmdline(layout.ParseCmdline(c.cmdline), c.firmware)
		if err != nil || got.String() != c.cmdline || (c.refused != "") != (len(s.Problems) == 1) {
			t.Errorf("%s, only warned of: %q, %v, %q", name, got, err, s.Problems)
		}
	}
}

// The UKI that started is the one of the release, whatever the boot menu calls it.
func TestSealedUKI(t *testing.T) {
	made, err := boot.Make(boottest.Tree("6.12.1"), boot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sum, err := uki.Authenticode(made.UKI)
	if err != nil {
		t.Fatal(err)
	}
	titled, err := uki.Replace(made.UKI, uki.OSRel, layout.EntryOSRelease("Debian - v1", "active"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(titled)
	flipped[len(flipped)-100] ^= 1
	other, err := boot.Make(boottest.Tree("6.12.1"), boot.Options{Cmdline: "init=/bin/sh"})
	if err != nil {
		t.Fatal(err)
	}
	const entry = "kairos-00000007-0123456789ab+2-1.efi"
	s := read(t, anchor(nil, newKey(t)))
	for name, c := range map[string]struct {
		file  []byte
		image string
		uki   layout.Digest
		want  string
	}{
		"the image's":      {made.UKI, `\EFI\Linux\` + entry, layout.SHA256(sum), ""},
		"in the menu":      {titled, `\EFI\Linux\` + entry, layout.SHA256(sum), ""},
		"not in the list":  {flipped, `\EFI\Linux\` + entry, "", ""},
		"a bit of it":      {flipped, `\EFI\Linux\` + entry, layout.SHA256(sum), "and the one of release"},
		"another genuine":  {other.UKI, `\EFI\Linux\` + entry, layout.SHA256(sum), "and the one of release"},
		"in another place": {titled, `\EFI\evil\` + entry, layout.SHA256(sum), "does not exist"},
		"no program":       {[]byte("x"), `\EFI\Linux\` + entry, layout.SHA256(sum), "PE"},
	} {
		r := release()
		r.UKI = c.uki
		esp := volume(t, "EFI/Linux/"+entry, c.file, 0)
		err = s.UKI(esp, c.image, r)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// volume is a file with a FAT volume that begins at a place in bytes, and has one file.
func volume(t *testing.T, name string, content []byte, at int64) *os.File {
	t.Helper()
	v, err := fat.FileSystem{
		Label: "COS_GRUB", Size: 40 << 20, Files: []filetree.File{filetree.Bytes(name, content)},
	}.Image()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "esp"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := v.WriteTo(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	return f
}

// So is the one of a live medium, which starts from a partition of its boot record.
func TestSealedLiveUKI(t *testing.T) {
	made, err := boot.Make(boottest.Tree("6.12.1"), boot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := boot.Make(boottest.Tree("6.12.1"), boot.Options{Cmdline: "quiet"})
	if err != nil {
		t.Fatal(err)
	}
	sum, err := uki.Authenticode(made.UKI)
	if err != nil {
		t.Fatal(err)
	}
	const image, begin, size = `\EFI\kairos\kairos.efi`, 1 << 20, 40 << 20
	a := anchor(nil, newKey(t))
	for name, c := range map[string]struct {
		file        []byte
		kind        byte
		start, size uint32 // in sectors
		image       string
		want        string
	}{
		"the image's":     {made.UKI, 0xef, begin / 512, size / 512, image, ""},
		"another genuine": {other.UKI, 0xef, begin / 512, size / 512, image, "and the one of release"},
		"another file":    {made.UKI, 0xef, begin / 512, size / 512, `\EFI\x.efi`, "does not exist"},
		"no file":         {made.UKI, 0xef, begin / 512, size / 512, "", "does not say which file"},
		"no partition":    {made.UKI, 0xcd, begin / 512, size / 512, image, "no EFI system partition"},
		"one that is cut": {made.UKI, 0xef, begin / 512, size/512 + 1, image, "no EFI system partition"},
		"no volume":       {made.UKI, 0xef, begin/512 + 1, size/512 - 1, image, "kairos.efi: "},
	} {
		f := volume(t, layout.LiveUKI, c.file, begin)
		record := make([]byte, 512)
		record[510], record[511] = 0x55, 0xaa
		second := record[446+16:]
		second[4] = c.kind
		binary.LittleEndian.PutUint32(second[8:], c.start)
		binary.LittleEndian.PutUint32(second[12:], c.size)
		if _, err := f.WriteAt(record, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(begin + size); err != nil {
			t.Fatal(err)
		}
		r := release()
		r.UKI = layout.SHA256(sum)
		wantRefusal(t, name, read(t, a).LiveUKI(f, c.image, r), c.want)
		warns := a
		warns.Warn = true
		s := read(t, warns)
		if err := s.LiveUKI(f, c.image, r); err != nil || len(s.Problems) != len(c.want[:min(1, len(c.want))]) {
			t.Errorf("%s, only warned of: %v, %q", name, err, s.Problems)
		}
	}
}
