package node

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// Look says what Status says, of an ESP that is no mount but a FAT in a file.
func TestLookMountsNothing(t *testing.T) {
	a, b, _ := threeImages(t)
	for _, firmware := range []string{layout.FirmwareUEFI, layout.FirmwareBIOS} {
		disk := t.TempDir()
		m := install(t, disk, firmware, t.TempDir(), a)
		if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
			t.Fatal(err)
		}
		esp := filepath.Join(t.TempDir(), "esp")
		for _, c := range [][]string{
			{"mkfs.vfat", "-C", esp, "16384"},
			{"mcopy", "-s", "-i", esp, filepath.Join(disk, espDir, "EFI"), filepath.Join(disk, espDir, "grub"), "::/"},
		} {
			if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", c, err, out)
			}
		}
		m.Boot.Devices = map[string]string{"efi": esp}
		if err := os.MkdirAll(filepath.Join(m.Root, layout.RunPrivate), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(disk, stateDir), filepath.Join(m.Root, layout.RunStoreMount)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.Root, layout.RunBoot), m.Boot.Marshal(), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Look(m.Root); !errors.Is(err, ErrNotKnown) {
			t.Errorf("%s: before any command: %v", firmware, err)
		}
		if err := m.Remember(); err != nil {
			t.Fatal(err)
		}
		want, err := m.Status()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Look(m.Root)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v\nwant %+v", firmware, got, err, want)
		}
		if got.Passive == nil || got.Recovery == nil || got.Recovery.Version == "" {
			t.Errorf("%s: %+v", firmware, got)
		}
	}
}
