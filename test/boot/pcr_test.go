//go:build vm

package boot

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
	"github.com/kairos-buildkit/kairos/uki/pcr"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// What firmware, stub and /init leave in PCR 11 is what was signed when the UKI was made, with the word that ends the
// initrd behind it. PCR 15 has the release.
func TestEncryptedPCR(t *testing.T) {
	t.Parallel()
	private, err := rsa.GenerateKey(rand.Reader, pcr.KeyBits)
	if err != nil {
		t.Fatal(err)
	}
	key, err := (&secureboot.Signer{Key: private}).KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	img := makeImage(t, 1, "")
	img.tree[layout.ImagePCRKey] = &fstest.MapFile{Data: pcr.MarshalPublic(&private.PublicKey), Mode: 0o644}
	img.sealWith(t, newKey(t), boot.Options{PCRKey: key})
	sections, err := uki.Sections(img.files.UKI)
	if err != nil {
		t.Fatal(err)
	}
	var signatures []pcr.Signature
	for _, s := range sections {
		if s.Name == uki.PCRSignatures {
			if signatures, err = pcr.Parse(s.Data); err != nil {
				t.Fatal(err)
			}
		}
	}
	record, err := img.release.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	word := layout.PCRReleaseWord(layout.SHA256(sha256.Sum256(record)))
	release := pcr.Value{}.Extend([]byte(word))
	machine, ended, err := qemu.StartTPM(context.Background(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ended() }) // it ends with the machine
	defer machine.Close()
	r := wait(t, vmtest.Start(t, qemu.Machine{
		Firmware: qemu.UEFI, NoNet: true, NoReboot: true, TPM: machine,
		Drives: []qemu.Drive{{Path: img.disk(t, 0, true), Bus: qemu.Virtio}},
	}))
	if r.Boot.Role != layout.RoleSystem {
		t.Fatalf("%+v", r.Boot)
	}
	started, err := pcr.Started(sections, 0)
	if err != nil {
		t.Fatal(err)
	}
	unsealing := started.Extend([]byte(layout.PCRWord(layout.RoleSystem)))
	if !slices.ContainsFunc(signatures, func(s pcr.Signature) bool { return s.Policy == unsealing.Policy() }) {
		t.Error("there is no signature for what was started")
	}
	for number, want := range map[string]pcr.Value{
		"11": unsealing.Extend([]byte(layout.PCRLeave)), "15": release,
	} {
		if got := r.PCRs[number]; got != hex.EncodeToString(want[:]) {
			t.Errorf("PCR %s is %s, want %x", number, got, want)
		}
	}
}
