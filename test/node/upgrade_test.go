//go:build vm

package node

import (
	"fmt"
	"io"
	"log"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

func discardLogger() *log.Logger { return log.New(io.Discard, "", 0) }

// A node is installed from a medium without anybody at the console, lives by its config, and takes an
// upgrade whose cost is that of what has changed.
func TestInstallAndUpgrade(t *testing.T) {
	t.Parallel()
	bothFirmwares(t, func(t *testing.T, firmware qemu.Firmware) {
		m := start(t, firmware)
		s := m.status()
		if s.Mode != "installed" || s.Firmware != string(firmware) || s.Booted == nil || s.Active == nil || s.Recovery == nil {
			t.Fatalf("status %+v", s)
		}
		first := s.Booted.Release
		if !s.Booted.Blessed || s.Active.Release != first || s.Recovery.Release != first || s.Passive != nil || len(s.Failed) != 0 {
			t.Errorf("status %+v", s)
		}
		if got := m.Check("cat /etc/hostname /etc/from-config; stat -c %a /etc/from-config"); got != "node1\nfrom config\n600" {
			t.Errorf("config: %q", got)
		}
		m.Check("until [ -e /run/runcmd-ran ]; do sleep 1; done")
		if out, err := m.sshRun("id -un"); err != nil || strings.TrimSpace(out) != "tester" {
			t.Errorf("ssh: %q, %v", out, err)
		}
		identity := "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub"
		before := m.Check(identity)
		if failed := m.Check("systemctl --failed --no-legend --plain"); failed != "" {
			t.Errorf("failed units: %s", failed)
		}
		m.Check("echo kept > /var/lib/app/file; echo gone > /etc/gone; echo kept > /home/tester/file")

		// Nobody needs what is on the node already.
		reg := startRegistry(t)
		img := reg.push(t, derived(t, "v2", "RUN head -c 3000000 /dev/urandom > /usr/share/payload && echo v2 > /usr/share/version\nLABEL io.kairos.version=v2"), "v2")
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		changed, err := layers[len(layers)-1].Size()
		if err != nil {
			t.Fatal(err)
		}
		written := func() int64 {
			m.Check("sync")
			n, err := strconv.ParseInt(m.Check("awk '{print $7}' /sys/class/block/$(basename $(readlink -f /dev/disk/by-label/COS_STATE))/stat"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n * 512
		}
		reg.push(t, get(t, example), "v1")
		start := written()
		out := m.apply("upgrade " + reg.ref(m, "v2"))
		cost := written() - start
		t.Logf("%s\nfetched %d bytes for a layer of %d, wrote %d bytes to STATE", out, reg.fetched.Load(), changed, cost)
		if reg.fetched.Load() > changed+100_000 {
			t.Errorf("fetched %d bytes for a changed layer of %d", reg.fetched.Load(), changed)
		}
		// The boot file goes to the ESP. Its size is room for what the kernel writes by itself, such as the
		// inode tables that it clears in the first minutes of a file system.
		uki, err := strconv.ParseInt(m.Check("stat -L -c %s /boot/kairos.efi"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if cost > changed*3/2+uki+1<<20 {
			t.Errorf("wrote %d bytes to STATE for a changed layer of %d", cost, changed)
		}
		s = m.status()
		if s.Active.Release == first || s.Active.Blessed || s.Active.TriesLeft != 3 || s.Passive == nil || s.Passive.Release != first || s.Booted.Release != first {
			t.Fatalf("status after the upgrade: %s", show(s))
		}
		second := s.Active.Release

		m.reboot()
		m.blessed()
		s = m.status()
		if s.Booted.Release != second || !s.Booted.Blessed || s.Active.Release != second || s.Passive == nil || s.Passive.Release != first || s.Booted.Version != "v2" {
			t.Errorf("status after the restart: %s", show(s))
		}
		if got := m.Check("cat /usr/share/version"); got != "v2" {
			t.Errorf("version %q", got)
		}
		if after := m.Check(identity); after != before {
			t.Errorf("identity was\n%s\nand is\n%s", before, after)
		}
		if got := m.Check("cat /var/lib/app/file /home/tester/file; ls /etc/gone 2>/dev/null || true"); got != "kept\nkept" {
			t.Errorf("kept: %q", got)
		}

		// And back.
		m.apply("rollback")
		m.reboot()
		m.blessed()
		if s = m.status(); s.Booted.Release != first || !s.Booted.Blessed || s.Passive == nil || s.Passive.Release != second {
			t.Errorf("status after the rollback: %s", show(s))
		}

		// A node without a battery begins in 1970. And a pod that upgrades its node comes from other namespaces, again
		// and again: it restarts nothing if there is nothing to restart for.
		m.Check("date -u -s @86400")
		pod := "unshare --mount --uts --ipc nsenter --target 1 --mount -- kairos-apply upgrade --unless-failed "
		for _, args := range []string{"--reboot " + reg.ref(m, "v1"), reg.ref(m, "v2") + " && test -e /run/reboot-required"} {
			if out, code := m.RunWithin(10*time.Minute, pod+args+" 2>&1"); code != 0 {
				t.Fatalf("upgrade %s: exit code %d\n%s", args, code, out)
			}
		}
		if s = m.status(); s.Booted.Release != first || s.Active.Release != second || s.Active.TriesLeft != 3 {
			t.Errorf("status after an upgrade in 1970: %s", show(s))
		}
	}, qemu.UEFI, qemu.BIOS)
}

func show(v any) string { return fmt.Sprintf("%+v", v) }
