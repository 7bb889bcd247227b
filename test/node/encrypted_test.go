//go:build vm

package node

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
)

// question is what the console asks for encrypted partitions.
const question = `encrypted. Type the recovery key or the passphrase \(1 of 3\)`

// What a node keeps is encrypted, opens by the recovery key and by the passphrase, and survives restarts, an upgrade
// and a key that is not known: then the node starts without it. The key is in no log, and on no disk.
func TestEncrypted(t *testing.T) {
	if !everything {
		t.Skip("part of `make test-all`: a dozen minutes of one machine")
	}
	t.Parallel()
	iso := filepath.Join(workDir, "encrypted.iso")
	if err := run(kairosBin, "export", "-o", "type=iso,dest="+iso, "oci-layout:"+get(t, example)); err != nil {
		t.Fatal(err)
	}
	d := qemu.Drive{Path: filepath.Join(t.TempDir(), "disk.qcow2"), Format: "qcow2"}
	if err := run("qemu-img", "create", "-q", "-f", "qcow2", d.Path, strconv.FormatInt(diskSize, 10)); err != nil {
		t.Fatal(err)
	}
	live := &machine{VM: vmtest.Start(t, qemu.Machine{Firmware: qemu.UEFI, NoNet: true,
		Drives: []qemu.Drive{{Path: iso, CDROM: true}, d}}), t: t}
	live.up()
	live.Check("umask 077; echo 'battery horse' >/run/pass; printf '#cloud-config\\nhostname: sealed\\n" +
		"install:\\n  encrypted_partitions: [COS_OEM, COS_PERSISTENT]\\n' >/run/c.yaml")
	var r api.InstallResult
	out := live.apply("-o json install --yes --config /run/c.yaml --passphrase-file /run/pass 2>/run/install.log")
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.RecoveryKey) != 71 {
		t.Fatalf("%v\n%s", err, out)
	}
	live.notLogged(r.RecoveryKey, "/run/install.log")
	live.soon("systemctl poweroff")
	live.WaitOff(5 * time.Minute)

	m := &machine{VM: vmtest.Start(t, qemu.Machine{Firmware: qemu.UEFI, Drives: []qemu.Drive{d}}), t: t}
	m.unlock(strings.ToUpper(r.RecoveryKey))
	m.blessed()
	m.encrypted("recovery key")
	if name := m.Check("hostname"); name != "sealed" {
		t.Errorf("the config of OEM takes no effect: the name is %s", name)
	}
	m.Check("echo canary-of-the-data >/home/file && sync && ! grep -q kairos: /proc/keys")
	if err := exec.Command("grep", "-qa", "canary-of-the-data", d.Path).Run(); err == nil {
		t.Error("a file's content is on the disk as it is")
	}
	m.Check("head -c 6 /dev/vda3 | grep -q LUKS && head -c 6 /dev/vda6 | grep -q LUKS")
	m.Check("grep -q ' /usr/local ext4 ' /proc/mounts && [ $(df -m --output=size /usr/local | tail -1) -gt 2000 ]")
	m.notLogged(r.RecoveryKey)

	reg := startRegistry(t)
	reg.push(t, derived(t, "encrypted2", "LABEL io.kairos.version=encrypted2"), "v2")
	m.apply("upgrade " + reg.ref(m, "v2"))
	m.soon("systemctl reboot")
	m.unlock("battery horse")
	m.blessed()
	m.encrypted("passphrase")
	if s := m.status(); s.Booted.Version != "encrypted2" {
		t.Errorf("status %s", show(s))
	}
	if got := m.Check("cat /home/file"); got != "canary-of-the-data" {
		t.Errorf("after the upgrade: %q", got)
	}

	m.soon("systemctl reboot")
	for _, n := range []string{"1", "2", "3"} {
		m.Expect(`\(`+n+` of 3\): `, vmtest.BootTimeout)
		m.Send("not the key\n")
	}
	m.up()
	m.encrypted("")
	if s := m.status(); s.Persistent != api.PersistentInMemory ||
		!strings.Contains(strings.Join(s.Problems, "\n"), "was not opened") {
		t.Errorf("status %s", show(s))
	}
	m.Check("[ ! -e /home/file ] && touch /home/works")

	// Without its keys, only a reset makes it usable again: with another key.
	m.apply("boot recovery")
	m.soon("systemctl reboot")
	for _, n := range []string{"1", "2", "3"} {
		m.Expect(`\(`+n+` of 3\): `, vmtest.BootTimeout)
		m.Send("not the key\n")
	}
	m.up()
	var reset api.Result
	out = m.apply("-o json reset --yes --oem 2>/dev/null")
	if err := json.Unmarshal([]byte(out), &reset); err != nil || len(reset.RecoveryKey) != 71 ||
		reset.RecoveryKey == r.RecoveryKey {
		t.Fatalf("%v\n%s", err, out)
	}
	m.soon("systemctl reboot")
	m.unlock(reset.RecoveryKey)
	m.encrypted("recovery key")
	m.Check("[ ! -e /home/file ]")
}

// unlock types a key at the start, and waits for the system.
func (m *machine) unlock(key string) {
	m.t.Helper()
	m.Expect(question, vmtest.BootTimeout)
	m.Send(key + "\n")
	m.Expect("COS_PERSISTENT is open", vmtest.BootTimeout)
	m.up()
}

// encrypted checks what has opened the encrypted partitions.
func (m *machine) encrypted(by string) {
	m.t.Helper()
	s := m.status()
	oem, hasOEM := s.Encrypted["COS_OEM"]
	persistent, hasPersistent := s.Encrypted["COS_PERSISTENT"]
	if !hasOEM || !hasPersistent || oem != by || persistent != by {
		m.t.Errorf("status %s", show(s))
	}
}

// notLogged looks for a key in what the machine has written down.
func (m *machine) notLogged(key string, files ...string) {
	m.t.Helper()
	if out, _ := m.Run("{ dmesg; journalctl --no-pager; cat /run/kairos/*.json " + strings.Join(files, " ") +
		"; } | grep -ciF -e " + key[:30]); strings.TrimSpace(out) != "0" {
		m.t.Errorf("the recovery key was written down: %s", out)
	}
}
