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

	"github.com/kairos-buildkit/kairos/api"
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
		if s.Mode != "installed" || s.Firmware != string(firmware) || s.Booted == nil || s.Active == nil ||
			s.Recovery == nil {
			t.Fatalf("status %+v", s)
		}
		first := s.Booted.Release
		if !s.Booted.Blessed || s.Active.Release != first || s.Recovery.Release != first || s.Passive != nil ||
			len(s.Failed) != 0 {
			t.Errorf("status %+v", s)
		}
		want := "node-" + m.Check("head -c 4 /etc/machine-id") + "\nfrom config\n600"
		if got := m.Check("cat /etc/hostname /etc/from-config; stat -c %a /etc/from-config"); got != want {
			t.Errorf("config: %q", got)
		}
		m.configWorks()
		if out, err := m.sshRun("id -un"); err != nil || strings.TrimSpace(out) != "tester" {
			t.Errorf("ssh: %q, %v", out, err)
		}
		identity := "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub"
		before := m.Check(identity)
		// runcmd has a line that fails.
		if failed := m.Check("systemctl --failed --no-legend --plain | grep -v kairos-runcmd || true"); failed != "" {
			t.Errorf("failed units: %s", failed)
		}
		m.Check("echo kept > /var/lib/app/file; echo gone > /etc/gone; echo kept > /home/tester/file")

		// Nobody needs what is on the node already.
		reg := startRegistry(t)
		img := reg.push(
			t,
			derived(t, "v2", "RUN head -c 3000000 /dev/urandom > /usr/share/payload && echo v2 > /usr/share/version"+
				" && useradd --uid 1000 builder\nLABEL io.kairos.version=v2"),
			"v2",
		)
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
			n, err := strconv.ParseInt(
				m.Check(
					"awk '{print $7}' /sys/class/block/$(basename $(readlink -f /dev/disk/by-label/COS_STATE))/stat",
				),
				10,
				64,
			)
			if err != nil {
				t.Fatal(err)
			}
			return n * 512
		}
		reg.push(t, get(t, example), "v1")
		// What is new on STATE is the upgrade's alone: the kernel clears the inode tables of a new file system while
		// it is writable, which an upgrade makes it for the first time.
		m.Check(
			"mkdir -p /run/state && mount -o ro /dev/disk/by-label/COS_STATE /run/state && mount -o " +
				"remount,rw,init_itable=0 /run/state" +
				" && while grep -qs ext4lazyinit /proc/[0-9]*/comm; do sleep 0.2; " +
				"done && mount -o remount,ro /run/state && umount /run/state",
		)
		start := written()
		out := m.apply("upgrade " + reg.ref(m, "v2"))
		cost := written() - start
		if got := m.Check("cat /run/upgrade-hooks"); got != "before\nafter" {
			t.Errorf("stages around the upgrade: %q", got)
		}
		t.Logf(
			"%s\nfetched %d bytes for a layer of %d, wrote %d bytes to STATE",
			out,
			reg.fetched.Load(),
			changed,
			cost,
		)
		if reg.fetched.Load() > changed+100_000 {
			t.Errorf("fetched %d bytes for a changed layer of %d", reg.fetched.Load(), changed)
		}
		// The boot file goes to the ESP. Its size is room for what the kernel writes by itself.
		uki, err := strconv.ParseInt(m.Check("stat -L -c %s /boot/kairos.efi"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if cost > changed*3/2+uki+1<<20 {
			t.Errorf("wrote %d bytes to STATE for a changed layer of %d", cost, changed)
		}
		s = m.status()
		if s.Active.Release == first || s.Active.Blessed || s.Active.TriesLeft != 3 || s.Passive == nil ||
			s.Passive.Release != first ||
			s.Booted.Release != first {
			t.Fatalf("status after the upgrade: %s", show(s))
		}
		second := s.Active.Release

		m.reboot()
		m.blessed()
		s = m.status()
		if s.Booted.Release != second || !s.Booted.Blessed || s.Active.Release != second || s.Passive == nil ||
			s.Passive.Release != first ||
			s.Booted.Version != "v2" {
			t.Errorf("status after the restart: %s", show(s))
		}
		if got := m.Check("cat /usr/share/version"); got != "v2" {
			t.Errorf("version %q", got)
		}
		// The image's new user does not get the number of one that the node has.
		got := m.Check("id -un 1000; id -u tester; stat -c %U /home/kairos /home/tester")
		if got != "kairos\n1001\nkairos\ntester" {
			t.Errorf("users after the upgrade: %q", got)
		}
		m.configRuns()
		out = m.Check("kairos-apply status")
		if !strings.Contains(out, "user builder: the image gives it the number 1000") {
			t.Errorf("nobody is told of the image's user:\n%s", out)
		}
		if after := m.Check(identity); after != before {
			t.Errorf("identity was\n%s\nand is\n%s", before, after)
		}
		got = m.Check("cat /var/lib/app/file /home/tester/file; ls /etc/gone 2>/dev/null || true")
		if got != "kept\nkept" {
			t.Errorf("kept: %q", got)
		}

		// And back. On the way a new recovery system is started, once, and restarts the machine by itself.
		m.apply("upgrade --recovery " + reg.ref(m, "v2"))
		m.apply("rollback")
		if s = m.status(); s.RecoveryTrial == nil || s.RecoveryTrial.State != api.TrialPending ||
			s.RecoveryTrial.Release != second || s.Recovery.Release != first || s.Active.Release != first {
			t.Errorf("status before the recovery system's trial: %s", show(s))
		}
		m.soon("systemctl reboot")
		m.Expect(`kairos: booting v2, release `+second+`[^\n]*\(recovery\)`, 10*time.Minute)
		m.Expect(`kairos: booting [^\n]*`+first+`[^\n]*\(system\)`, 10*time.Minute)
		m.up()
		m.blessed()
		if s = m.status(); s.Booted.Release != first || !s.Booted.Blessed || s.Passive == nil ||
			s.Passive.Release != second {
			t.Errorf("status after the rollback: %s", show(s))
		}
		// The blessing gives the new one the old one's place after it has said that the release is good.
		const promoted = "until kairos-apply status get recovery.version 2>&1 | grep -qx v2; do sleep 2; done"
		if out, code := m.RunWithin(3*time.Minute, promoted); code != 0 {
			t.Errorf("the recovery system: %s", out)
		}
		if s = m.status(); s.RecoveryTrial != nil || s.Recovery == nil || s.Recovery.Release != second ||
			s.Recovery.Problem != "" || s.Active.TriesUsed != 0 {
			t.Errorf("status after the recovery system's trial: %s", show(s))
		}

		// A node without a battery begins in 1970. And a pod that upgrades its node comes from other namespaces, again
		// and again: it restarts nothing if there is nothing to restart for.
		m.Check("date -u -s @86400")
		pod := "unshare --mount --uts --ipc nsenter --target 1 --mount -- kairos-apply upgrade --unless-failed "
		for _, args := range []string{
			"--reboot " + reg.ref(m, "v1"), reg.ref(m, "v2") + " && test -e /run/reboot-required",
		} {
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

// configWorks checks that the installation's config has taken effect, and that nothing is wrong with it.
func (m *machine) configWorks() {
	m.t.Helper()
	m.configRuns()
	if s := m.status(); len(s.ConfigProblems) > 0 {
		m.t.Errorf("status has %+v", s.ConfigProblems)
	}
}

// configRuns checks that the installation's config has taken effect, as far as a machine alone can say.
func (m *machine) configRuns() {
	m.t.Helper()
	for _, file := range []string{"runcmd-ran", "boot-ran", "network-ran", "k3s-started"} {
		if out, code := m.RunWithin(3*time.Minute, "until [ -e /run/"+file+" ]; do sleep 1; done"); code != 0 {
			m.t.Errorf("%s: %s", file, out)
		}
	}
	if got := m.Check("cat /run/k3s-started"); got != "server --flannel-backend=none secret" {
		m.t.Errorf("k3s was started as %q", got)
	}
	m.ownersConfig()
	m.byFetchedKey()
}

// ownersConfig checks what of the config takes effect under each init: host name, files, a login by password, sudo.
func (m *machine) ownersConfig() {
	m.t.Helper()
	want := "node-" + m.Check("head -c 4 /etc/machine-id") + "\n" + m.Check("cat /etc/machine-id") + " 4750"
	if got := m.Check("hostname; cat /etc/from-stage; stat -c ' %a' /etc/from-stage"); got != want {
		m.t.Errorf("host name and the stage's file: %q, want %q", got, want)
	}
	// unix_chkpwd is what PAM asks: it reads the password.
	m.Check(`printf 'kairos\0' | unix_chkpwd kairos nullok && ! printf 'other\0' | unix_chkpwd kairos nullok`)
	if got := m.Check("su kairos -c 'sudo -n id -u; id -u'"); got != "0\n1000" {
		m.t.Errorf("sudo of the group admin: %q", got)
	}
}
