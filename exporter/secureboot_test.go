package exporter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// signedImage is an image whose boot files a key has signed, with what enrolls it, and a layer of somebody else's
// on top.
func signedImage(t *testing.T, keys *secureboot.Keys, labels map[string]string, more fstest.MapFS) (
	img image.Image, files fstest.MapFS,
) {
	t.Helper()
	key, err := keys.DB.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	enrolment, err := keys.Enrolment(time.Unix(0, 0), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	tree := boottest.Tree(kernel)
	tree[layout.ImageSecureBootCert] = text(string(keys.DB.CertificatePEM()))
	for name, b := range enrolment {
		tree[layout.ImageSecureBootDir+"/"+name+".auth"] = text(string(b))
	}
	o := boot.OptionsFrom(labels)
	o.Key = key
	files = bootFiles(t, tree, o)
	loader, err := keys.DB.Sign(files[layout.ImageSystemdBoot].Data)
	if err != nil {
		t.Fatal(err)
	}
	files[layout.ImageSystemdBoot] = text(string(loader))
	layers := []*testLayer{layerOf(t, tree), layerOf(t, files)}
	if more != nil {
		layers = append(layers, layerOf(t, more))
	}
	return imageOf(t, labels, layers...), files
}

// onESP reads a file of a medium's EFI system partition, which begins at a place in bytes.
func onESP(t *testing.T, medium string, at int64, name string) []byte {
	t.Helper()
	out, err := exec.Command("mtype", "-i", fmt.Sprintf("%s@@%d", medium, at), "::/"+name).Output()
	if err != nil {
		t.Fatalf("mtype (package mtools) %s: %v", name, err)
	}
	return out
}

// espOf returns where the EFI system partition of an ISO begins, in bytes.
func espOf(t *testing.T, iso string) int64 {
	t.Helper()
	head := make([]byte, 512)
	f, err := os.Open(iso)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	return int64(binary.LittleEndian.Uint32(head[446+16+8:])) * 512
}

// Media have the boot files as the key has signed them, byte for byte, and a live medium what enrolls the key.
func TestSignedMedium(t *testing.T) {
	keys, err := secureboot.NewKeys("ours", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		labels map[string]string
		want   string
	}{
		"default": {nil, "secure-boot-enroll if-safe\n"},
		"force":   {map[string]string{layout.ImageLabelEnroll: layout.EnrollForce}, "secure-boot-enroll force\n"},
	} {
		t.Run(name, func(t *testing.T) {
			img, files := signedImage(t, keys, c.labels, nil)
			iso, _ := exportFile(t, img, FormatISO, Options{})
			esp := espOf(t, iso)
			for name, want := range map[string][]byte{
				layout.LiveUKI:         files[layout.ImageUKI].Data,
				"EFI/BOOT/BOOTX64.EFI": files[layout.ImageSystemdBoot].Data,
			} {
				if got := onESP(t, iso, esp, name); !bytes.Equal(got, want) {
					t.Errorf("ISO: %s is another file", name)
				}
			}
			if got := string(onESP(t, iso, esp, layout.LoaderConfig)); !strings.HasSuffix(got, c.want) {
				t.Errorf("%q, want %q at its end", got, c.want)
			}
			for _, v := range []string{"PK", "KEK", "db"} {
				b := onESP(t, iso, esp, filepath.Join(layout.LoaderKeysDir, v+".auth"))
				if _, err := secureboot.ParseEnrolment(v, b); err != nil {
					t.Errorf("%s: %v", v, err)
				}
			}
			raw, _ := exportFile(t, img, FormatRaw, Options{})
			const espOnDisk = 2 << 20 // behind the first partition
			entry := "EFI/Linux/" + layout.OnTrial(layout.RecoverySeq+1, layout.ReleaseID(img.ConfigDigest)).String()
			if got := onESP(t, raw, espOnDisk, entry); !bytes.Equal(got, files[layout.ImageUKI].Data) {
				t.Error("disk: the UKI is another file")
			}
		})
	}
}

// A signed boot file is never regenerated without the key.
func TestSignedMediumRefused(t *testing.T) {
	keys, err := secureboot.NewKeys("ours", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := secureboot.NewKeys("stranger", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := stranger.DB.Sign(boottest.Program("systemd-boot"))
	if err != nil {
		t.Fatal(err)
	}
	other := fstest.MapFS{}
	boottest.AddKernel(other, "6.12.9")
	const words = "#cloud-config\ninstall:\n  grub_options: {extra_cmdline: my.word}\n"
	for name, c := range map[string]struct {
		layer  fstest.MapFS
		config string
		want   string
	}{
		"another kernel":  {other, "", "without the key"},
		"a config's word": {nil, words, "without the key"},
		"another's loader": {fstest.MapFS{layout.ImageSystemdBoot: text(string(foreign))}, "",
			"systemd-boot.efi: it is signed by"},
		"unsigned loader": {fstest.MapFS{layout.ImageSystemdBoot: text(string(boottest.Program("x")))}, "",
			"systemd-boot.efi: it is not signed"},
	} {
		img, _ := signedImage(t, keys, nil, c.layer)
		err := Export(t.Context(), io.Discard, img, FormatRaw, Options{CloudConfig: []byte(c.config)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
