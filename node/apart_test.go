package node

import (
	"bytes"
	"errors"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// apartImage is an image whose boot files a key signs apart from the build, and these.
func apartImage(t *testing.T, keys *secureboot.Keys) (img testImage, programs map[string][]byte) {
	t.Helper()
	file := func(b []byte) *fstest.MapFile { return &fstest.MapFile{Data: b, Mode: 0o644} }
	labels := map[string]string{layout.ImageLabelBootSignatures: layout.BootSignaturesInRelease}
	tree := boottest.Tree("6.12.1-amd64")
	tree[layout.ImageSecureBootCert] = file(keys.DB.CertificatePEM())
	made, err := boot.Make(tree, boot.OptionsFrom(labels))
	if err != nil {
		t.Fatal(err)
	}
	programs = map[string][]byte{
		layout.ImageUKI: made.UKI, layout.ImageSystemdBoot: boottest.Program("systemd-boot"),
	}
	tree[layout.ImageKernel] = boottest.Link(path.Base(made.KernelPath))
	tree[layout.ImageInitrd] = file(made.Initrd)
	tree[layout.ImageBootManifest] = file(made.Manifest.Marshal())
	tree[layout.ImageRelease] = file([]byte("KAIROS_VERSION=v2\n"))
	for name, b := range programs {
		tree[name] = file(b)
	}
	return labelledImage(t, labels, runtime.GOARCH, boottest.Tar(t, boottest.WithFolders(tree))), programs
}

// A node puts the signatures that are beside an image's release onto its boot files, keeps them for rollback and
// verification, and gives them back to a store that has lost them; without them it takes no such image.
func TestSignedApart(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("boottest makes programs for amd64")
	}
	keys, err := secureboot.NewKeys("ours", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := secureboot.NewKeys("stranger", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	a, _ := large(t)
	img, programs := apartImage(t, keys)
	_, src, art := beside(t, install(t, t.TempDir(), "uefi", t.TempDir(), a), img)
	repo, _, err := registry.Find(t.Context(), src.Name, registry.Options{AuthFiles: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	signs := func(by *secureboot.Keys) {
		t.Helper()
		var list secureboot.DetachedList
		for name, b := range programs {
			signature, err := by.DB.Detached(b)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, secureboot.Detached{File: name, Signature: signature})
		}
		if _, err := release.AddBootSignatures(t.Context(), repo, art, list); err != nil {
			t.Fatal(err)
		}
	}
	disk := t.TempDir()
	m := install(t, disk, "uefi", t.TempDir(), a)
	m.bootFiles = func(s *store.Store, r layout.Release, p Progress) (loader.BootFiles, bootFacts, error) {
		if r.ID() == img.id {
			return readBootFiles(s, r, p)
		}
		return fakeBootFiles(s, r, p)
	}
	enforces(t, m, 1, keys.DB.Certificate)
	refused := func(src source.Ref, want string) {
		t.Helper()
		for _, recovery := range []bool{false, true} {
			_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src, Recovery: recovery})
			wantRefused(t, err, want)
		}
		if _, err := m.State.Release(img.id); err == nil {
			t.Error("a release that is refused has its record")
		}
	}
	refused(src, "it is not signed for Secure Boot: sign it with `kairos release --uki-key")
	refused(img.source(), "it is not signed for Secure Boot") // no release is beside it there
	signs(stranger)
	refused(src, "and not by \"ours db\"")
	signs(keys)
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src}); err != nil {
		t.Fatal(err)
	}
	onESP := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(disk, espDir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	entry := func() string {
		t.Helper()
		slots, err := m.ESP.State()
		if err != nil {
			t.Fatal(err)
		}
		active, _ := slots.Active()
		if active.ID != img.id {
			t.Fatalf("active is %s", active)
		}
		return layout.UKIDir + "/" + active.String()
	}
	want := func(image string) []byte {
		t.Helper()
		b, err := keys.DB.Sign(programs[image])
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if !bytes.Equal(onESP(entry()), want(layout.ImageUKI)) {
		t.Error("the UKI is not as the key signs it")
	}
	m.Boot.Release = img.id
	if _, err := m.Bless(Verdict{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(onESP("EFI/BOOT/BOOTX64.EFI"), want(layout.ImageSystemdBoot)) {
		t.Error("the boot loader is not as the key signs it")
	}

	// What is kept is the signatures that are used, and the store is verified with them.
	record := filepath.Join(disk, stateDir, layout.ReleaseBootSignaturesPath(img.id))
	kept, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := secureboot.ParseDetached(kept); err != nil || len(list) != len(programs) {
		t.Errorf("kept: %d signatures, %v", len(list), err)
	}
	damage := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(record, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range map[string][]byte{"damaged": []byte("x"), "empty": nil, "flipped": flip(kept)} {
		damage(b)
		v, err := m.Verify(t.Context(), VerifyOptions{})
		if left := (*DamagedError)(nil); !errors.As(err, &left) || len(v.Damage) != 1 {
			t.Errorf("%s: found %+v, %v", name, v.Damage, err)
		}
		if !bytes.Equal(onESP(entry()), want(layout.ImageUKI)) {
			t.Errorf("%s: verify has changed the UKI", name)
		}
		if _, err = m.Verify(t.Context(), VerifyOptions{Repair: true}); err != nil {
			t.Fatal(err)
		}
		if again, err := os.ReadFile(record); err != nil || !bytes.Equal(again, kept) {
			t.Errorf("%s: repair has not put the signatures together, %v", name, err)
		}
		if !bytes.Equal(onESP(entry()), want(layout.ImageUKI)) {
			t.Errorf("%s: repair has changed the UKI", name)
		}
	}

	// A boot file that was replaced is written again with its signature.
	if err := os.WriteFile(filepath.Join(disk, espDir, entry()), programs[layout.ImageUKI], 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Verify(t.Context(), VerifyOptions{Repair: true}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(onESP(entry()), want(layout.ImageUKI)) {
		t.Error("repair has not put the signed UKI back")
	}

	// The recovery system, and a copy of the release to another store.
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src, Recovery: true}); err != nil {
		t.Fatal(err)
	}
	other := store.New(t.TempDir())
	r, err := m.Recovery.Release(img.id)
	if err != nil {
		t.Fatal(err)
	}
	if err := copyRelease(t.Context(), m.Recovery, other, r, nil); err != nil {
		t.Fatal(err)
	}
	if r, err = other.Release(img.id); err != nil || !bytes.Equal(r.BootSignatures, kept) {
		t.Errorf("a copy has %d bytes of signatures, and the release %d: %v", len(r.BootSignatures), len(kept), err)
	}
}

// flip changes a byte in the middle of a signature.
func flip(b []byte) []byte {
	b = bytes.Clone(b)
	at := len(b) / 3
	if b[at] == 'A' {
		b[at] = 'B'
	} else {
		b[at] = 'A'
	}
	return b
}
