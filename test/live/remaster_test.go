//go:build vm

package live

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
)

// An ISO is re-mastered without the image that it came from: as it was, with another cloud-config, and as a disk.
func TestRemaster(t *testing.T) {
	img := get(t, example)
	config := filepath.Join(workDir, "site.yaml")
	write(t, config, "#cloud-config\nhostname: site-a\n")
	export := func(name, typ string, more ...string) string {
		file := filepath.Join(workDir, name)
		args := append([]string{"export", "-o", "type=" + typ + ",dest=" + file}, more...)
		if _, err := runKairos(append(args, "iso:"+img.iso)...); err != nil {
			t.Fatal(err)
		}
		return file
	}
	if again := export("again.iso", "iso"); fileSum(t, again) != fileSum(t, img.iso) {
		t.Error("the ISO made of the ISO has other bytes")
	}
	iso := export("site.iso", "iso", "--cloud-config", config)
	raw := export("site.raw", "raw", "--cloud-config", config)
	out, err := runKairos("inspect", raw)
	if err != nil || !strings.Contains(out, "Cloud-config: 90_custom.yaml") || strings.Contains(out, "site-a") {
		t.Errorf("inspect: %v\n%s", err, out)
	}
	for name, m := range map[string]qemu.Machine{
		"ISO": {Firmware: qemu.UEFI, Drives: []qemu.Drive{cdrom(iso)}},
		"raw": {Firmware: qemu.BIOS, Drives: []qemu.Drive{disk(raw, qemu.Virtio)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m.NoReboot = true
			vm := vmtest.Start(t, m)
			rootShell(vm)
			if got := strings.TrimSpace(vm.Check("hostname")); got != "site-a" {
				t.Errorf("host name %q", got)
			}
		})
	}
}

func fileSum(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
