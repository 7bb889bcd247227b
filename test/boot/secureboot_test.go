//go:build vm

package boot

import (
	"crypto/sha256"
	"crypto/x509"
	"io/fs"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// enforcing is a machine whose firmware starts what a key has signed, or one of further certificates of db, and
// nothing that dbx names.
func enforcing(
	t *testing.T, keys *secureboot.Keys, db []*x509.Certificate, dbx secureboot.Database, disk string,
) qemu.Machine {
	t.Helper()
	files, err := keys.Enrolment(moment, nil, db)
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
	if b := dbx.Marshal(keys.Owner); len(b) > 0 {
		v := m.Variables[len(m.Variables)-1]
		v.Name, v.Data = "dbx", b
		m.Variables = append(m.Variables, v)
	}
	return m
}

// A firmware that enforces Secure Boot starts the boot loader and the UKI that our key has signed, and neither an
// unsigned loader, nor a UKI that another key has signed, nor one that dbx names, by its signer or by itself.
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
		vm := vmtest.Start(t, enforcing(t, ours, nil, secureboot.Database{}, img.disk(t, 0, true)))
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
		vm := vmtest.Start(t, enforcing(t, ours, nil, secureboot.Database{}, img.disk(t, 0, false)))
		vm.Expect(refused, vmtest.BootTimeout)
		vm.WaitOff(time.Minute) // the try is counted, and the machine restarts
	})
	t.Run("a UKI of a revoked key", func(t *testing.T) {
		img := made(t)
		plain, err := boot.Make(makeImage(t, 1, "").tree, boot.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if img.files.UKI, err = stranger.DB.Sign(plain.UKI); err != nil {
			t.Fatal(err)
		}
		revoked := []*x509.Certificate{stranger.DB.Certificate} // which db has, too
		vm := vmtest.Start(t, enforcing(t, ours, revoked, secureboot.Database{Certificates: revoked},
			img.disk(t, 0, false)))
		vm.Expect(refused, vmtest.BootTimeout)
		vm.WaitOff(time.Minute)
	})
	t.Run("a revoked UKI", func(t *testing.T) {
		img := made(t)
		sum, err := uki.Authenticode(img.files.UKI)
		if err != nil {
			t.Fatal(err)
		}
		vm := vmtest.Start(t, enforcing(t, ours, nil, secureboot.Database{Programs: [][sha256.Size]byte{sum}},
			img.disk(t, 0, false)))
		vm.Expect(refused, vmtest.BootTimeout)
		vm.WaitOff(time.Minute)
	})
	t.Run("an unsigned loader", func(t *testing.T) {
		img := made(t)
		img.loader = nil
		vm := vmtest.Start(t, enforcing(t, ours, nil, secureboot.Database{}, img.disk(t, 0, true)))
		vm.Expect(refused, vmtest.BootTimeout)
	})
}
