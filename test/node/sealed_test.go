//go:build vm

package node

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	klayout "github.com/kairos-buildkit/kairos/layout"
)

// owner has the keys of a firmware and the key of releases.
type owner struct{ firmware, release string }

func (o owner) file(name string) string { return filepath.Join(o.firmware, name) }

// owners are those of this run by their names.
var owners sync.Map

// newOwner makes an owner's keys: once, whoever asks. They stay with what is made by them.
func newOwner(t *testing.T, name string) owner {
	t.Helper()
	once, _ := owners.LoadOrStore(name, sync.OnceValues(func() (owner, error) {
		o := owner{filepath.Join(workDir, name), filepath.Join(workDir, name+".key")}
		if made(o.release) {
			return o, nil
		}
		if err := run(kairosBin, "keys", "new", "--secure-boot", "--name", name, o.firmware); err != nil {
			return o, err
		}
		return o, run(kairosBin, "keys", "new", o.release)
	}))
	o, err := once.(func() (owner, error))()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// build makes a sealed image on top of one, with boot files that the owner has signed: its UKI is another one for each
// version. What the firmware says is asked by programs of systemd, too.
func (o owner) build(t *testing.T, base, version string, epoch, seconds int, instructions string) string {
	t.Helper()
	dir := t.TempDir()
	for name, from := range map[string]string{
		"db.crt": o.file("db.crt"), "PK.auth": o.file("PK.auth"), "KEK.auth": o.file("KEK.auth"),
		"db.auth": o.file("db.auth"), "release.pub": o.release + ".pub",
	} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf(`# syntax=kairos
FROM example
RUN --mount=type=tmpfs,target=/var/lib/apt/lists --mount=type=tmpfs,target=/var/cache/apt \
    --mount=type=tmpfs,target=/var/log apt-get update && \
    apt-get install --yes --no-install-recommends systemd-boot-tools tpm2-tools
COPY db.crt *.auth /%s/
COPY release.pub /%s/
RUN echo '{"tpm": true}' > /%s
LABEL %s=%d %s=%q
%s
`, klayout.ImageSecureBootDir, klayout.ImageTrustDir, klayout.ImageTrustPolicy, klayout.ImageLabelEpoch, epoch,
		klayout.ImageLabelCmdline, rootShell(seconds)+" version="+version, instructions)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	img, err := buildImage(version, dir, "--build-context", "example=oci-layout://"+base,
		"--secret", "id=secureboot-key,src="+o.file("db.key"))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// first is the image that machines begin with.
func (o owner) first(t *testing.T) string {
	t.Helper()
	return o.build(t, get(t, example), "sealed-v1", 1, 400, "")
}

// medium makes a live medium that installs the image unattended, and says on the console what runs then.
func (o owner) medium(t *testing.T, oci string) string {
	t.Helper()
	config, iso := filepath.Join(workDir, "sealed.yaml"), filepath.Join(workDir, "sealed.iso")
	const text = `#cloud-config
stages:
  kairos-install.after:
    - commands: ["kairos-apply status >/dev/console; echo The hook ran after the installation. >/dev/console"]
install: {auto: true, device: auto, poweroff: true}
`
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	err := run(kairosBin, "export", "--sign-key", o.release, "-o", "type=iso,dest="+iso, "--cloud-config", config,
		"oci-layout:"+oci)
	if err != nil {
		t.Fatal(err)
	}
	return iso
}

// publish puts an image into the registry, with its release, which the owner has signed.
func (o owner) publish(t *testing.T, reg *server, oci, tag string) {
	t.Helper()
	reg.push(t, oci, tag)
	if err := run(kairosBin, "release", "--sign-key", o.release, reg.addr+"/os:"+tag); err != nil {
		t.Fatal(err)
	}
}

// enforced checks that the firmware enforces, who has signed what runs, and the lowest epochs of the TPM, once it says
// them; bootctl and the variable agree. It returns PCR 7, the measurement of what the firmware enforces.
func (m *machine) enforced(mode string, epoch int64, floor, recovery int64) (pcr7 string) {
	m.t.Helper()
	s := m.status()
	b := s.Booted
	if s.Mode != mode || s.SecureBoot != api.SecureBootEnforcing || b == nil || b.Epoch != epoch ||
		len(b.Signatures) != 1 || !b.Signatures[0].Trusted || b.Signatures[0].Name != "release" {
		m.t.Fatalf("status %s, booted %s, want %s, enforcing, of epoch %d and signed", show(s), show(b), mode, epoch)
	}
	if s.Trust == nil || s.Trust.TPM == nil || *s.Trust.TPM !=
		(api.TPM{State: api.TPMReady, Epoch: floor, Recovery: recovery}) {
		m.t.Fatalf("the TPM holds %s, want %d, and %d of the recovery system", show(s.Trust), floor, recovery)
	}
	if out := m.Check("bootctl status 2>&1"); !strings.Contains(out, "Secure Boot: enabled (user)") ||
		!strings.Contains(out, "TPM2 Support: yes") || !strings.Contains(out, "Product: systemd-boot") {
		m.t.Fatalf("bootctl says\n%s", out)
	}
	if got := m.Check("cat /sys/kernel/security/lockdown"); !strings.Contains(got, "[integrity]") {
		m.t.Errorf("the kernel's lockdown: %q", got)
	}
	got := strings.Fields(m.Check("systemd-analyze pcrs 7 | tail -n 1"))
	if len(got) != 3 || len(got[2]) != 64 || strings.Trim(got[2], "0") == "" {
		m.t.Fatalf("PCR 7 is %q", got)
	}
	return got[2]
}

// refused checks that a command of kairos-apply is refused, and why.
func (m *machine) refused(why, args string) {
	m.t.Helper()
	if out, code := m.RunWithin(5*time.Minute, "kairos-apply "+args); code != 6 || !strings.Contains(out, why) {
		m.t.Errorf("kairos-apply %s: exit code %d, want 6 and %q\n%s", args, code, why, out)
	}
}

// A machine's whole life under Secure Boot: the medium gives a firmware in setup mode the owner's keys, installs
// itself, and from then on the firmware enforces them. A release of a higher epoch that never gets healthy ends in the
// one below; the next one is blessed, which raises the TPM's floor, and takes its place; then the one below is
// refused, by commands and by its own boot file, and the recovery system starts. Each time the system says that it is
// enforced and who has signed it, and systemd says the same; sbverify says so of each boot file on the disk.
func TestSealedLife(t *testing.T) {
	if !everything {
		t.Skip("part of `make test-all`: a dozen starts of one machine")
	}
	t.Parallel()
	o := newOwner(t, "owner")
	base := get(t, example)
	v1 := o.first(t)
	broken := o.build(t, base, "sealed-broken", 2, 120, check("exit 3"))
	v3 := o.build(t, base, "sealed-v3", 3, 400, "")

	dir := t.TempDir()
	tpm, disk := filepath.Join(dir, "tpm"), vmtest.NewDisk(t, diskSize)
	if err := os.Mkdir(tpm, 0o700); err != nil {
		t.Fatal(err)
	}
	powerOn := func(drives ...qemu.Drive) *machine {
		return &machine{t: t, VM: vmtest.StartWithTPM(t, qemu.Machine{
			Firmware: qemu.UEFI, SecureBoot: true, Vars: filepath.Join(dir, "vars.fd"), Drives: drives,
		}, tpm)}
	}
	installer := powerOn(qemu.Drive{Path: o.medium(t, v1), CDROM: true}, disk)
	installer.Expect("Custom Secure Boot keys successfully enrolled", vmtest.BootTimeout)
	installer.Expect("UEFI Secure Boot is enabled", vmtest.BootTimeout)
	installer.Expect("Secure Boot is enforced", 15*time.Minute)
	installer.Expect("signed by .*release", vmtest.RunTimeout)
	installer.Expect("The hook ran after the installation", vmtest.RunTimeout)
	installer.WaitOff(5 * time.Minute)

	m := powerOn(disk)
	m.up()
	m.blessed()
	measured := m.enforced(api.ModeInstalled, 1, 1, 0)
	same := func(got string) {
		t.Helper()
		if got != measured {
			t.Errorf("PCR 7 is %s, and was %s", got, measured)
		}
	}
	first := m.status().Booted.Release
	reg := startRegistry(t)
	for tag, oci := range map[string]string{"v1": v1, "broken": broken, "v3": v3} {
		o.publish(t, reg, oci, tag)
	}

	m.apply("upgrade " + reg.ref(m, "broken"))
	second := m.status().Active.Release
	m.soon("systemctl reboot")
	m.Expect("the lowest epoch in the TPM is 1", vmtest.BootTimeout)
	m.Expect(`kairos: booting [^\n]*release `+second, vmtest.BootTimeout)
	m.fellBack(first)
	if s := m.status(); len(s.Failed) != 1 || s.Failed[0].Release != second || s.Failed[0].Refused != "" {
		t.Fatalf("status %s", show(s))
	}
	same(m.enforced(api.ModeInstalled, 1, 1, 0))

	m.apply("upgrade " + reg.ref(m, "v3"))
	m.soon("systemctl reboot")
	m.Expect("the lowest epoch in the TPM is 1", vmtest.BootTimeout)
	m.up()
	m.blessed()
	same(m.enforced(api.ModeInstalled, 3, 3, 0))
	s := m.status()
	const old = "its epoch is 1, and 3"
	if s.Passive == nil || s.Passive.Release != first || !strings.Contains(s.Passive.Refused, old) {
		t.Errorf("the passive release is %s", show(s.Passive))
	}
	m.refused(old, "rollback")
	m.refused(old, "upgrade "+reg.ref(m, "v1"))
	m.refused("its epoch is 2, and 3", "upgrade "+reg.ref(m, "broken"))

	// Who has the ESP in his hands has the older release start. Few tries make it short.
	third := s.Booted.Release
	m.Check("(set -e; mount $(sed -n 's/.*\"efi\": \"\\(.*\\)\".*/\\1/p' /run/kairos/boot.json) /mnt; " +
		"cd /mnt/EFI/Linux; rm *" + third + "*; f=$(ls *" + first + "+9-0.efi); mv $f ${f%+9-0.efi}+1-8.efi; " +
		"cd /; umount /mnt; sync) 2>&1")
	m.soon("systemctl reboot --force")
	m.Expect("cannot boot: refused: release "+first+".* its epoch is 1, and this machine's TPM holds 3",
		vmtest.BootTimeout)
	m.Expect("UEFI Secure Boot is enabled", vmtest.BootTimeout)
	m.Expect(`kairos: booting [^\n]*recovery`, vmtest.BootTimeout)
	m.up()
	same(m.enforced(api.ModeRecovery, 1, 3, 1))
	m.refused(old, "reset --yes")
	m.PowerCut()
	o.signedAll(t, vmtest.Raw(t, disk))
}

// signedAll checks by sbverify that the owner has signed each program on a disk's ESP, and nobody else.
func (o owner) signedAll(t *testing.T, raw string) {
	t.Helper()
	files := t.TempDir()
	const begin = 2 << 20 // behind the first partition
	esp := fmt.Sprintf("%s@@%d", raw, begin)
	if out, err := exec.Command("mcopy", "-s", "-n", "-i", esp, "::/EFI", files).CombinedOutput(); err != nil {
		t.Fatalf("mcopy (package mtools): %v\n%s", err, out)
	}
	stranger := newOwner(t, "stranger")
	verified := map[string]bool{}
	err := filepath.WalkDir(files, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !strings.EqualFold(filepath.Ext(name), ".efi") {
			return err
		}
		verified[strings.ToUpper(filepath.Base(filepath.Dir(name)))] = true
		out, err := exec.Command("sbverify", "--cert", o.file("db.crt"), name).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Signature verification OK") {
			t.Errorf("sbverify (package sbsigntool) %s: %v\n%s", filepath.Base(name), err, out)
		}
		if err := exec.Command("sbverify", "--cert", stranger.file("db.crt"), name).Run(); err == nil {
			t.Errorf("%s: sbverify takes a stranger's certificate", name)
		}
		return nil
	})
	if err != nil || !verified["BOOT"] || !verified["LINUX"] {
		t.Errorf("programs are in %v, %v", verified, err)
	}
}
