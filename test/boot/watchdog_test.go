//go:build vm

package boot

import (
	"regexp"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
)

// Under an init that Kairos does not know, the guard of a release on trial pets the machine's watchdog: when all of
// the system hangs, the guard with it, the watchdog restarts the machine. It waits for two minutes.
func TestWatchdogEndsAHang(t *testing.T) {
	longTest(t)
	t.Parallel()
	tree, err := kernelTree()
	if err != nil {
		t.Fatal(err)
	}
	modules := map[string][]byte{}
	driver := regexp.MustCompile(`/(watchdog|i6300esb)\.ko`)
	for name, file := range tree {
		if driver.MatchString(name) {
			modules[strings.TrimPrefix(name, "usr/")] = file.Data
		}
	}
	if len(modules) != 2 {
		t.Fatalf("the kernel has %d of two modules", len(modules))
	}
	img := makeImageWith(t, 2, "probe=stops "+layout.CmdlineDeadline+"=60", modules)
	vm := vmtest.Start(t, qemu.Machine{
		Firmware: qemu.BIOS, NoNet: true, Drives: []qemu.Drive{{Path: img.disk(t, 0, false), Bus: qemu.Virtio}},
		Args: []string{"-device", "i6300esb", "-action", "watchdog=reset"},
	})
	vm.Expect(`probe: the guard is stopped, with a watchdog of 120 seconds`, vmtest.BootTimeout)
	vm.Expect(`kairos: booting [^\n]*\(system\)`, vmtest.BootTimeout)
}
