//go:build vm

package node

import (
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// With active and passive both broken the recovery system boots by itself, and reset makes a working
// node of it.
func TestRecovery(t *testing.T) {
	t.Parallel()
	bothFirmwares(t, func(t *testing.T, firmware qemu.Firmware) {
		m := start(t, firmware)
		first := m.status().Booted.Release
		const identity = "cat /etc/machine-id /etc/ssh/ssh_host_*.pub"
		same := m.Check(identity)
		reg := startRegistry(t)
		reg.push(t, derived(t, "r2", "RUN echo r2 > /usr/share/version"), "r2")
		m.apply("upgrade " + reg.ref(m, "r2"))
		m.Check("echo kept > /home/tester/file; sync")
		byConfig := firmware == qemu.BIOS // no hand touches it
		if byConfig {
			m.Check("printf 'reset: {auto: true}\n' > /oem/90_reset.yaml; sync")
		}
		// All layers of STATE go, under the running system too: it is reset before it notices.
		m.Check(
			"(sleep 2; mount -o remount,rw /run/kairos/store; cd /run/kairos/store; " +
				"for f in $(find blobs -name '*.erofs'); do dd if=/dev/zero of=$f bs=4096 count=1 conv=notrunc; " +
				"done; sync; echo b > /proc/sysrq-trigger) >/dev/null 2>&1 &",
		)
		m.Expect("kairos: booting [^\n]*recovery", 25*time.Minute)
		if byConfig {
			m.Expect(`kairos: booting [^\n]*\(system\)`, 25*time.Minute)
			m.up()
			resetTo(m, first)
			return
		}
		m.up()
		if s := m.status(); s.Mode != "recovery" || s.Booted == nil || s.Booted.Release != first {
			t.Fatalf("status %s", show(s))
		}
		// Who logs in to repair it meets the machine that he knows.
		if got := m.Check(identity); got != same {
			t.Errorf("in the recovery system the node is\n%s\nand was\n%s", got, same)
		}
		m.apply("reset --yes")
		if got := m.Check("cat /run/reset-hooks"); got != "before\nafter" {
			t.Errorf("stages around the reset: %q", got)
		}
		m.reboot()
		resetTo(m, first)
	}, qemu.UEFI)
}

// resetTo checks that a machine which was reset has a release, and nothing of what was kept.
func resetTo(m *machine, release string) {
	m.t.Helper()
	m.blessed()
	s := m.status()
	if s.Mode != "installed" || s.Booted.Release != release || !s.Booted.Blessed || s.Recovery == nil ||
		len(s.Failed) != 0 {
		m.t.Errorf("status %s", show(s))
	}
	if got := m.Check("cut -c 1-5 /etc/hostname; ls /home/tester/file 2>/dev/null || true"); got != "node-" {
		m.t.Errorf("after the reset: %q", got)
	}
}
