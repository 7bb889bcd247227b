//go:build vm

package boot

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/tpm"
	"github.com/kairos-buildkit/kairos/internal/tpm/tpmtest"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
	"github.com/kairos-buildkit/kairos/trust/trusttest"
	"github.com/kairos-buildkit/kairos/uki"
)

func newKey(t *testing.T) sign.Key { return trusttest.Key(t, trust.ECDSA) }

// seal has the image trust a key, and has the key sign its release.
func (img *image) seal(t *testing.T, key sign.Key, cmdline string) {
	t.Helper()
	img.sealWith(t, key, boot.Options{Cmdline: cmdline})
}

// sealWith is seal of boot files with options.
func (img *image) sealWith(t *testing.T, key sign.Key, o boot.Options) {
	t.Helper()
	img.tree[layout.ImageTrustDir+"/release.pub"] = &fstest.MapFile{Data: key.PEM(), Mode: 0o644}
	var err error
	if img.files, err = boot.Make(img.tree, o); err != nil {
		t.Fatal(err)
	}
	sum, err := uki.Authenticode(img.files.UKI)
	if err != nil {
		t.Fatal(err)
	}
	img.release.UKI = layout.SHA256(sum)
	img.release.Signatures = trusttest.Signed(t, img.release, key)
	if err := store.New(img.dir).AddRelease(img.release); err != nil {
		t.Fatal(err)
	}
}

// A sealed disk boots what its key has signed.
func TestSealedBoots(t *testing.T) {
	t.Parallel()
	img := makeImage(t, 3, "")
	img.seal(t, newKey(t), "")
	vm := vmtest.Start(t, qemu.Machine{
		Firmware: qemu.UEFI, NoNet: true, NoReboot: true,
		Drives: []qemu.Drive{{Path: img.disk(t, 0, false), Bus: qemu.Virtio}},
	})
	vm.Expect("is signed by ecdsa-p256 key", vmtest.BootTimeout)
	if r := wait(t, vm); r.Boot.Role != layout.RoleSystem || r.Content != img.content || len(r.Boot.Problems) > 0 {
		t.Errorf("%+v", r)
	}
}

// A release whose epoch is below what the machine's TPM holds does not boot, though its own trust.json takes it; where
// it equals that, it does. The TPM is the kernel's to find: the index is read through its driver.
func TestSealedEpochInTPM(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	img := makeImage(t, 1, "")
	img.release.Epoch = 1
	img.tree[layout.ImageTrustPolicy] = &fstest.MapFile{Data: []byte(`{"tpm": true}`), Mode: 0o644}
	img.seal(t, newKey(t), "panic=-1")
	disk := img.disk(t, 0, true)
	start := func(t *testing.T) *vmtest.VM {
		t.Helper()
		machine, wait, err := qemu.StartTPM(context.Background(), state)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = wait() }) // it ends with the machine
		defer machine.Close()
		return vmtest.Start(t, qemu.Machine{
			Firmware: qemu.UEFI, NoNet: true, NoReboot: true, TPM: machine,
			Drives: []qemu.Drive{{Path: disk, Bus: qemu.Virtio}},
		})
	}
	for _, c := range []struct {
		raise int64
		want  string
	}{
		{1, "the lowest epoch in the TPM is 1"},
		{2, "cannot boot: refused: release .* its epoch is 1, and this machine's TPM holds 2 as the lowest"},
	} {
		t.Run(fmt.Sprintf("of %d", c.raise), func(t *testing.T) {
			held := tpm.On(tpmtest.StartIn(t, state)())
			if f, err := held.Raise(tpm.Floors{System: c.raise}); err != nil || f.System != c.raise {
				t.Fatalf("%+v, %v", f, err)
			}
			if err := held.Close(); err != nil {
				t.Fatal(err)
			}
		})
		t.Run(fmt.Sprintf("below %d", c.raise), func(t *testing.T) {
			vm := start(t)
			vm.Expect(c.want, vmtest.BootTimeout)
			if c.raise > 1 {
				vm.WaitOff(time.Minute)
			} else if r := wait(t, vm); r.Boot.Role != layout.RoleSystem || len(r.Boot.Problems) > 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// What nobody has signed, around a release that is: words of the firmware, another genuine boot file, a second disk.
func TestSealedRefuses(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	machine := func(disks ...string) qemu.Machine {
		m := qemu.Machine{Firmware: qemu.UEFI, NoNet: true, NoReboot: true}
		for _, d := range disks {
			m.Drives = append(m.Drives, qemu.Drive{Path: d, Bus: qemu.Virtio})
		}
		return m
	}
	t.Run("a word of SMBIOS", func(t *testing.T) {
		t.Parallel()
		img := makeImage(t, 1, "")
		img.seal(t, key, "panic=-1")
		m := machine(img.disk(t, 0, true))
		m.Args = []string{"-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=init=/bin/sh"}
		vm := vmtest.Start(t, m)
		vm.Expect(`cannot boot: refused: the kernel's command line has words .*init=/bin/sh`, vmtest.BootTimeout)
		vm.WaitOff(time.Minute)
	})
	t.Run("another genuine UKI", func(t *testing.T) {
		t.Parallel()
		other, img := makeImage(t, 1, ""), makeImage(t, 1, "")
		other.seal(t, key, "panic=-1 quiet")
		img.seal(t, key, "panic=-1")
		img.files = other.files
		vm := vmtest.Start(t, machine(img.disk(t, 0, true)))
		vm.Expect("cannot boot: refused: the UKI .* and the one of release "+img.release.ID(), vmtest.BootTimeout)
		vm.WaitOff(time.Minute)
	})
	t.Run("a second disk", func(t *testing.T) {
		t.Parallel()
		img := makeImage(t, 1, "")
		img.seal(t, key, "panic=-1")
		disk := img.disk(t, 0, true)
		twin := filepath.Join(t.TempDir(), "twin.raw")
		if out, err := exec.Command("cp", "--sparse=always", disk, twin).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		vm := vmtest.Start(t, machine(disk, twin))
		vm.Expect("cannot boot: refused: .* have the partition .* and one alone may", vmtest.BootTimeout)
		vm.Expect("stopped until somebody has looked", vmtest.BootTimeout)
	})
}
