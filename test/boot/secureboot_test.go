//go:build vm

package boot

import (
	"io/fs"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// enforcing is a machine whose firmware starts what a key has signed.
func enforcing(t *testing.T, keys *secureboot.Keys, disk string) qemu.Machine {
	t.Helper()
	files, err := keys.Enrolment(moment, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := qemu.Machine{
		Firmware: qemu.UEFI, SecureBoot: true, NoNet: true, NoReboot: true,
		Drives: []qemu.Drive{{Path: disk, Bus: qemu.Virtio}},
	}
	for _, name := range []string{"PK", "KEK", "db"} {
		v, err := secureboot.ParseEnrolment(name, files[name])
		if err != nil {
			t.Fatal(err)
		}
		m.Variables = append(m.Variables, qemu.Variable{
			Name: name, Vendor: v.Vendor, Attributes: v.Attributes, Time: v.Time, Data: v.Content,
		})
	}
	return m
}

// A firmware that enforces Secure Boot starts the boot loader and the UKI that our key has signed, and neither an
// unsigned loader nor a UKI that another key has signed.
func TestSealedSecureBoot(t *testing.T) {
	t.Parallel()
	ours, err := secureboot.NewKeys("ours", moment)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := secureboot.NewKeys("stranger", moment)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ours.DB.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	made := func(t *testing.T) *image {
		t.Helper()
		img := makeImage(t, 1, "")
		img.tree[layout.ImageSecureBootCert] = &fstest.MapFile{Data: ours.DB.CertificatePEM(), Mode: 0o644}
		if img.files, err = boot.Make(img.tree, boot.Options{Key: key}); err != nil {
			t.Fatal(err)
		}
		loader, err := fs.ReadFile(img.assets, "systemd-boot.efi")
		if err != nil {
			t.Fatal(err)
		}
		if loader, err = ours.DB.Sign(loader); err != nil {
			t.Fatal(err)
		}
		img.loader = loader
		return img
	}
	const refused = `(?i)access denied|security violation`
	t.Run("signed", func(t *testing.T) {
		img := made(t)
		vm := vmtest.Start(t, enforcing(t, ours, img.disk(t, 0, true)))
		vm.Expect("UEFI Secure Boot is enabled", vmtest.BootTimeout)
		if r := wait(t, vm); r.Boot.Role != layout.RoleSystem || r.Content != img.content {
			t.Errorf("%+v", r)
		}
	})
	t.Run("another's UKI", func(t *testing.T) {
		img := made(t)
		plain, err := boot.Make(makeImage(t, 1, "").tree, boot.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if img.files.UKI, err = stranger.DB.Sign(plain.UKI); err != nil {
			t.Fatal(err)
		}
		vm := vmtest.Start(t, enforcing(t, ours, img.disk(t, 0, false)))
		vm.Expect(refused, vmtest.BootTimeout)
		vm.WaitOff(time.Minute) // the try is counted, and the machine restarts
	})
	t.Run("an unsigned loader", func(t *testing.T) {
		img := made(t)
		img.loader = nil
		vm := vmtest.Start(t, enforcing(t, ours, img.disk(t, 0, true)))
		vm.Expect(refused, vmtest.BootTimeout)
	})
}
