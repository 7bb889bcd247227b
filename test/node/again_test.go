//go:build vm

package node

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
)

// An unattended medium that stays in the drive, and that the firmware prefers, installs once. Then the disk's system
// starts: because the installation has told the firmware; because the medium finds its release on the disk and
// restarts from there; and where the firmware starts the medium all the same, the medium waits for a person, as under
// BIOS.
func TestMediumStays(t *testing.T) {
	t.Parallel()
	bothFirmwares(t, func(t *testing.T, firmware qemu.Firmware) {
		dir := t.TempDir()
		iso, config := filepath.Join(dir, "medium.iso"), filepath.Join(dir, "config.yaml")
		text := "#cloud-config\ninstall: {auto: true, reboot: true}\n"
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		err := run(kairosBin, "export", "-o", "type=iso,dest="+iso, "--cloud-config", config,
			"oci-layout:"+get(t, example))
		if err != nil {
			t.Fatal(err)
		}
		vm := vmtest.Start(t, qemu.Machine{Firmware: firmware, NoNet: true, Drives: []qemu.Drive{
			{Path: iso, CDROM: true}, vmtest.NewDisk(t, diskSize),
		}})
		const boot = 10 * time.Minute
		vm.Expect(`kairos: booting [^\n]*\(live\)`, boot)
		if firmware == qemu.UEFI {
			vm.Expect(`kairos: booting [^\n]*\(system\)`, boot) // by BootNext
			vm.Reset()
			vm.Expect(`kairos: booting [^\n]*\(live\)`, boot)
			vm.Expect(`is installed on /dev/vda already: nothing was installed`, boot)
			vm.Expect(`kairos: booting [^\n]*\(system\)`, boot)
			vm.Reset() // before that release is healthy, and removes the medium's note
		}
		vm.Expect(`kairos: booting [^\n]*\(live\)`, boot)
		vm.Expect(`was not installed: it is on /dev/vda already[^\n]*take the medium out`, boot)
		vm.Send("\n") // the prompt may have come before that line
		vm.WaitLogin()
	}, qemu.UEFI)
}
