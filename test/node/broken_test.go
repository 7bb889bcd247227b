//go:build vm

package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	klayout "github.com/kairos-buildkit/kairos/layout"
)

// cmdline is a line of a Dockerfile that sets the command line of its image.
func cmdline(s string) string { return fmt.Sprintf("\nLABEL %s=%q", klayout.ImageLabelCmdline, s) }

// state begins shell commands that change what STATE holds, which is the folder that they run in.
const state = "mount -o remount,rw /run/kairos/store && cd /run/kairos/store && "

// A release that is broken, in any of these ways, ends in the old release without anybody's help, and
// status says what happened.
func TestBrokenReleases(t *testing.T) {
	t.Parallel()
	esp := "mkdir -p /run/esp && mount $(jq_efi) /run/esp && cd /run/esp && "
	for _, c := range []struct {
		name         string
		sample       []qemu.Firmware // under which it is tried where not everything is
		instructions string          // of the image
		damage       string          // shell commands after the upgrade; $ID is the release
		says         string          // in the failure's reason; "" where nothing can be written
		panics       bool            // then it is the firmware's variables that keep the reason, under UEFI
	}{
		{name: "kernel-panics", sample: []qemu.Firmware{qemu.UEFI},
			instructions: cmdline(rootShell(400) + " rdinit=/nothing")},
		{name: "init-exits", sample: []qemu.Firmware{qemu.BIOS},
			instructions: "RUN rm /sbin/init && printf '#!/bin/sh\\nexit 1\\n' > /sbin/init && chmod 755 /sbin/init"},
		{name: "layer-corrupt", sample: []qemu.Firmware{qemu.UEFI},
			instructions: "RUN head -c 100000 /dev/urandom > /etc/payload",
			says:         "kernel panic: dm-verity device corrupted", panics: true,
			damage: state +
				`for d in $(grep -o 'sha256:[0-9a-f]*' releases/$ID/release.json | cut -d: -f2 | tail -n 1); ` +
				`do f=$(find blobs -name $d.erofs); dd if=/dev/zero of=$f bs=4096 count=1 conv=notrunc; done`},
		{name: "systemd-hangs", sample: []qemu.Firmware{qemu.BIOS}, says: "not blessed within",
			instructions: "RUN printf '[Unit]\\nDefaultDependencies=no\\nBefore=basic.target\\n" +
				"[Service]\\nType=oneshot\\nTimeoutStartSec=infinity\\nExecStart=/bin/sleep infinity\\n' " +
				"> /etc/systemd/system/hang.service && mkdir -p /etc/systemd/system/basic.target.requires && " +
				"ln -s ../hang.service /etc/systemd/system/basic.target.requires/" + cmdline(rootShell(20))},
		{name: "health-fails", sample: []qemu.Firmware{qemu.UEFI},
			instructions: check("echo the disk is missing; exit 3"), says: "health check 10-test: exit status 3"},
		{name: "health-hangs", instructions: check("sleep 3600") + cmdline(rootShell(120)),
			says: "health check 10-test did not end in time"},
		{name: "uki-truncated", sample: []qemu.Firmware{qemu.UEFI, qemu.BIOS}, instructions: "RUN echo > /etc/payload",
			damage: esp +
				"for f in EFI/Linux/*$ID+3-0.efi kairos/$ID/initrd; do [ ! -e $f ] || truncate -s $(($(stat -c %s " +
				"$f) / 2)) $f; done"},
		{name: "release-damaged", sample: []qemu.Firmware{qemu.BIOS}, instructions: "RUN echo > /etc/payload2",
			damage: state + "truncate -s 50 releases/$ID/release.json", says: "cannot boot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !everything && len(c.sample) == 0 {
				t.Skip("part of `make test-all`")
			}
			t.Parallel()
			img := derived(t, "broken-"+c.name, c.instructions)
			bothFirmwares(t, func(t *testing.T, firmware qemu.Firmware) {
				m := start(t, firmware)
				first := m.status().Booted.Release
				reg := startRegistry(t)
				reg.push(t, img, "broken")
				m.apply("upgrade " + reg.ref(m, "broken"))
				second := m.status().Active.Release
				if second == first {
					t.Fatal("the broken release is not the active one")
				}
				if c.damage != "" {
					efi := `jq_efi() { sed -n 's/.*"efi": "\(.*\)".*/\1/p' /run/kairos/boot.json; }; `
					m.Check(
						"(set -e; ID=" + second + "; " + efi + c.damage +
							"; sync) 2>&1; umount /run/esp 2>/dev/null; " +
							"mount -o remount,ro /run/kairos/store 2>/dev/null; true",
					)
				}
				m.soon("systemctl reboot --force") // the services' end takes a while
				m.fellBack(first)
				s := m.status()
				if s.Booted.Release != first || s.Active.Release != first || len(s.Failed) != 1 ||
					s.Failed[0].Release != second {
					t.Fatalf("status %s", show(s))
				}
				if f := s.Failed[0].Failure; c.says != "" && !(c.panics && firmware == qemu.BIOS) &&
					(f == nil || !strings.Contains(f.Reason, c.says)) {
					t.Errorf("failure %+v, want %q", f, c.says)
				}
				if issue := m.Check("cat /run/issue.d/kairos.issue"); !strings.Contains(issue, second) {
					t.Errorf("the login prompt says %q", issue)
				}
			}, c.sample...)
		})
	}
}

// A release that was blessed and stops loading ends in the release before it, after its nine tries and without
// anybody's help.
func TestBlessedReleaseBreaks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		sample []qemu.Firmware
		damage string // shell commands on the ESP; $ID is the release
	}{
		{name: "does-not-load", sample: []qemu.Firmware{qemu.UEFI},
			damage: "for f in EFI/Linux/*$ID+9-0.efi kairos/$ID/initrd; " +
				"do [ ! -e $f ] || truncate -s $(($(stat -c %s $f) / 2)) $f; done"},
		{name: "kernel-panics", // without its initrd, whose content is at the UKI's end
			damage: "for f in EFI/Linux/*$ID+9-0.efi kairos/$ID/initrd; " +
				"do [ ! -e $f ] || dd if=/dev/zero of=$f bs=4096 count=256 " +
				"seek=$(($(stat -c %s $f) / 4096 - 300)) conv=notrunc; done"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !everything && len(c.sample) == 0 {
				t.Skip("part of `make test-all`")
			}
			t.Parallel()
			img := derived(t, "blessed-"+c.name, "RUN echo "+c.name+" > /etc/payload")
			bothFirmwares(t, func(t *testing.T, firmware qemu.Firmware) {
				m := start(t, firmware)
				first := m.status().Booted.Release
				reg := startRegistry(t)
				reg.push(t, img, "breaks")
				m.apply("upgrade " + reg.ref(m, "breaks"))
				m.reboot()
				m.blessed()
				s := m.status()
				second := s.Booted.Release
				if second == first || !s.Booted.Blessed || s.Booted.TriesLeft != klayout.BlessedTries {
					t.Fatalf("status %s", show(s))
				}
				efi := `jq_efi() { sed -n 's/.*"efi": "\(.*\)".*/\1/p' /run/kairos/boot.json; }; `
				m.Check(
					"(set -e; ID=" + second + "; " + efi +
						"mkdir -p /run/esp && mount $(jq_efi) /run/esp && cd /run/esp && " +
						c.damage + "; sync) 2>&1; umount /run/esp 2>/dev/null; true",
				)
				m.soon("systemctl reboot --force")
				m.fellBack(first)
				s = m.status()
				if s.Booted.Release != first || s.Active.Release != first || len(s.Failed) != 1 ||
					s.Failed[0].Release != second || s.Failed[0].TriesUsed != klayout.BlessedTries {
					t.Fatalf("status %s", show(s))
				}
			}, c.sample...)
		})
	}
}

func check(script string) string {
	return fmt.Sprintf(
		"RUN mkdir -p /%[1]s && printf '#!/bin/sh\\n%[2]s\\n' > /%[1]s/10-test && chmod 755 /%[1]s/10-test",
		klayout.ImageHealthDir,
		script,
	)
}

// fellBack waits until a release runs: up to three boots of another one come before.
func (m *machine) fellBack(id string) {
	m.t.Helper()
	end := time.Now().Add(15 * time.Minute)
	m.Expect("kairos: booting [^\n]*release "+id, time.Until(end))
	m.up()
	m.blessed()
}
