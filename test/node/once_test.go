//go:build vm

package node

import (
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// What is chosen for the next start starts once: the recovery system, and then a reset that nobody has to confirm.
func TestBootOnce(t *testing.T) {
	t.Parallel()
	bothFirmwares(t, func(t *testing.T, firmware qemu.Firmware) {
		m := start(t, firmware)
		const boot = 10 * time.Minute
		m.apply("boot recovery")
		m.soon("systemctl reboot")
		m.Expect(`kairos: booting [^\n]*\(recovery\)`, boot)
		m.up()
		m.reboot()
		if s := m.status(); s.Mode != "installed" {
			t.Fatalf("status %s", show(s))
		}
		m.Check("echo kept > /home/tester/file; sync")
		m.apply("boot reset --yes")
		m.soon("systemctl reboot")
		m.Expect(`kairos: booting [^\n]*\(recovery\)`, boot)
		m.Expect(`kairos: booting [^\n]*\(system\)`, boot)
		m.up()
		m.blessed()
		if got := m.Check("ls /home/tester/file 2>/dev/null || true"); got != "" {
			t.Errorf("after the reset: %q", got)
		}
	}, qemu.UEFI)
}
