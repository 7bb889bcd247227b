//go:build vm

package boot

import (
	"os/exec"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/internal/qemu"
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
	img.tree[layout.ImageTrustDir+"/release.pub"] = &fstest.MapFile{Data: key.PEM(), Mode: 0o644}
	var err error
	if img.files, err = boot.Make(img.tree, boot.Options{Cmdline: cmdline}); err != nil {
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
