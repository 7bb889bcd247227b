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
		m.blessed()
		m.quiet()
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

// quiet checks that a healthy start, a look at the status and a collection that finds nothing have left no line of a
// file system in the kernel's log, beside those of what /init has mounted.
func (m *machine) quiet() {
	m.t.Helper()
	recovery := m.Check(`sed -n 's|.*"recovery": "/dev/\([^"]*\)".*|\1|p' /run/kairos/boot.json`)
	if out, _ := m.Run("dmesg | grep -F 'EXT4-fs (" + recovery + ")'"); recovery == "" || out != "" {
		m.t.Errorf("RECOVERY (%s) was mounted:\n%s", recovery, out)
	}
	const lines = "dmesg | grep -cE 'EXT4-fs|FAT-fs' || true"
	before := m.Check(lines)
	m.apply("bless")
	m.apply("gc")
	m.Check("rm -f /run/kairos/known.json")
	if s := m.status(); s.Recovery == nil || s.Recovery.Version == "" {
		m.t.Errorf("status %s", show(s))
	}
	if after := m.Check(lines); after != before {
		m.t.Errorf("%s lines, and %s before:\n%s", after, before, m.Check("dmesg | grep -E 'EXT4-fs|FAT-fs'"))
	}
}
