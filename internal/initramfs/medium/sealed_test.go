package medium

import (
	"errors"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/internal/initramfs/efi"
	"github.com/kairos-buildkit/kairos/internal/initramfs/sealed"
	"github.com/kairos-buildkit/kairos/layout"
)

// A second disk that looks like the one that was booted from is refused where the initrd trusts some keys, and only
// there.
func TestSealedAlone(t *testing.T) {
	one, two := []string{"/dev/vda"}, []string{"/dev/vda", "/dev/none"}
	seal := func(warn bool) *sealed.Seal {
		s := &sealed.Seal{Log: &console.Log{}}
		s.Anchor.Warn = warn
		return s
	}
	for name, c := range map[string]struct {
		seal    *sealed.Seal
		devices []string
		refused bool
	}{
		"unsealed": {nil, two, false}, "one": {seal(false), one, false},
		"two": {seal(false), two, true}, "two, only warned of": {seal(true), two, false},
	} {
		f := Finder{Seal: c.seal, alike: func() []string { return c.devices }, what: "the partition x"}
		if err := f.Alone(); (err != nil) != c.refused || c.refused && !errors.Is(err, ErrAlike) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (&Finder{Seal: seal(false)}).Alone(); err != nil {
		t.Error(err)
	}
}

// A node's boot entry does not become a live medium by a word.
func TestSealedNodeIsNoLiveMedium(t *testing.T) {
	const entry = `\EFI\Linux\kairos-00000007-0123456789ab+2-1.efi`
	for name, c := range map[string]struct {
		cmdline, image string
		refused        bool
	}{
		"a node":          {"quiet", entry, false},
		"a live medium":   {"kairos.live", `\EFI\kairos\kairos.efi`, false},
		"a node as live":  {"kairos.live", entry, true},
		"a stick's entry": {"", `\EFI\BOOT\BOOTX64.EFI`, false},
		"as FAT knows it": {"", `\EFI\LINUX\KAIROS~1.EFI`, true},
		"in capitals":     {"", strings.ToUpper(entry), true},
	} {
		variable := func(v string) (string, error) {
			return map[string]string{efi.StubImage: c.image, efi.LoaderPart: "x"}[v], nil
		}
		o, err := parseOrigin(layout.ParseCmdline(c.cmdline), layout.FirmwareUEFI, variable)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkOrigin(o, variable); (err != nil) != c.refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}
