package exporter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// apartImage is an image whose boot files a key signs apart from the build, with its boot files, and a layer of
// somebody else's on top.
func apartImage(t *testing.T, keys *secureboot.Keys, more fstest.MapFS) (img image.Image, files fstest.MapFS) {
	t.Helper()
	labels := map[string]string{layout.ImageLabelBootSignatures: layout.BootSignaturesInRelease}
	tree := boottest.Tree(kernel)
	tree[layout.ImageSecureBootCert] = text(string(keys.DB.CertificatePEM()))
	files = bootFiles(t, tree, boot.OptionsFrom(labels))
	layers := []*testLayer{layerOf(t, tree), layerOf(t, files)}
	if more != nil {
		layers = append(layers, layerOf(t, more))
	}
	return imageOf(t, labels, layers...), files
}

// signedApart returns an option with the signatures of programs, by their paths.
func signedApart(t *testing.T, by *secureboot.Keys, programs map[string][]byte) func(context.Context) ([]byte, error) {
	t.Helper()
	var list secureboot.DetachedList
	for name, b := range programs {
		signature, err := by.DB.Detached(b)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, secureboot.Detached{File: name, Signature: signature})
	}
	b, err := list.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return func(context.Context) ([]byte, error) { return b, nil }
}

// Media of an image that is signed apart have the boot files as a key would have signed them in the build, and so do
// media that are made of those.
func TestMediumSignedApart(t *testing.T) {
	keys, err := secureboot.NewKeys("ours", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	img, files := apartImage(t, keys, nil)
	programs := map[string][]byte{}
	want := map[string][]byte{}
	for _, name := range []string{layout.ImageUKI, layout.ImageSystemdBoot} {
		programs[name] = files[name].Data
		if want[name], err = keys.DB.Sign(files[name].Data); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{BootSignatures: signedApart(t, keys, programs)}
	iso, isoSum := exportFile(t, img, FormatISO, o)
	raw, rawSum := exportFile(t, img, FormatRaw, o)
	entry := "EFI/Linux/" + layout.OnTrial(layout.RecoverySeq+1, layout.ReleaseID(img.ConfigDigest)).String()
	for _, c := range []struct{ medium, on, file string }{
		{iso, layout.LiveUKI, layout.ImageUKI}, {iso, "EFI/BOOT/BOOTX64.EFI", layout.ImageSystemdBoot},
		{raw, entry, layout.ImageUKI}, {raw, "EFI/BOOT/BOOTX64.EFI", layout.ImageSystemdBoot},
	} {
		at := int64(2 << 20) // behind the disk's first partition
		if c.medium == iso {
			at = espOf(t, iso)
		}
		if got := onESP(t, c.medium, at, c.on); !bytes.Equal(got, want[c.file]) {
			t.Errorf("%s: %s is another file", filepath.Base(c.medium), c.on)
		}
	}
	if _, sum := exportFile(t, openMedium(t, source.ISO, iso), FormatRaw, Options{}); sum != rawSum {
		t.Error("a disk from the ISO: other bytes than from the image")
	}
	disk := openMedium(t, source.Disk, raw)
	if _, sum := exportFile(t, disk, FormatISO, Options{}); sum != isoSum {
		t.Error("an ISO from the disk: other bytes than from the image")
	}
	disk.Made.BootSignatures = nil
	err = Export(t.Context(), io.Discard, disk, FormatISO, Options{})
	if err == nil || !strings.Contains(err.Error(), "it is not signed") {
		t.Errorf("a medium without its signatures: %v", err)
	}
}

// What is put on a boot file is a signature of this file by the image's key, or nothing is written.
func TestMediumSignedApartRefused(t *testing.T) {
	keys, err := secureboot.NewKeys("ours", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := secureboot.NewKeys("stranger", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	_, files := apartImage(t, keys, nil)
	uki, loader := files[layout.ImageUKI].Data, files[layout.ImageSystemdBoot].Data
	both := map[string][]byte{layout.ImageUKI: uki, layout.ImageSystemdBoot: loader}
	other := fstest.MapFS{}
	boottest.AddKernel(other, "6.12.9")
	const words = "#cloud-config\ninstall:\n  grub_options: {extra_cmdline: my.word}\n"
	of := func(name string, program []byte) func(context.Context) ([]byte, error) {
		return signedApart(t, keys, map[string][]byte{name: program})
	}
	gives := func(text string, err error) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return []byte(text), err }
	}
	for name, c := range map[string]struct {
		layer  fstest.MapFS
		config string
		given  func(context.Context) ([]byte, error)
		want   string
	}{
		"nothing":         {nil, "", nil, "kairos.efi: it is not signed for Secure Boot: sign it with"},
		"by a stranger":   {nil, "", signedApart(t, stranger, both), "and not by \"ours db\""},
		"of another UKI":  {nil, "", of(layout.ImageUKI, loader), "another program"},
		"no loader's":     {nil, "", of(layout.ImageUKI, uki), "boot.efi: it is not"},
		"damaged":         {nil, "", gives("x", nil), "invalid character"},
		"unreachable":     {nil, "", gives("", errors.New("away")), "away"},
		"another kernel":  {other, "", signedApart(t, keys, both), "another program"},
		"a config's word": {nil, words, signedApart(t, keys, both), "words that a config adds"},
	} {
		img, _ := apartImage(t, keys, c.layer)
		o := Options{BootSignatures: c.given, CloudConfig: []byte(c.config)}
		err := Export(t.Context(), io.Discard, img, FormatRaw, o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// Another kernel on top is signed like the first, since signing regenerates the boot files as export does.
	img, _ := apartImage(t, keys, other)
	made, err := MakeRelease(t.Context(), img, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	o := Options{BootSignatures: signedApart(t, keys, made.Programs)}
	if err := Export(t.Context(), io.Discard, img, FormatRaw, o); err != nil {
		t.Errorf("another kernel, signed: %v", err)
	}
}
