package bootlayer

import (
	"bytes"
	"errors"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// The layer has UKI and boot loader as the key has signed them, and nothing of the key. A build on top of that,
// without the key, has the same; one that would need others fails.
func TestLayerIsSigned(t *testing.T) {
	keys, err := secureboot.NewKeys("ours", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	key, err := keys.DB.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	tree := boottest.Tree("6.12.1")
	tree[layout.ImageSecureBootCert] = &fstest.MapFile{Data: keys.DB.CertificatePEM(), Mode: 0o644}
	if _, err := Make(tree, Options{Arch: "amd64"}); !errors.Is(err, boot.ErrNoKey) {
		t.Errorf("without the key: %v", err)
	}
	l, err := Make(tree, Options{Arch: "amd64", Key: bytes.Clone(key)})
	if err != nil {
		t.Fatal(err)
	}
	secret := bytes.Split(key, []byte("\n"))[10] // of the PEM, in the middle
	signed := 0
	for _, f := range l.Files {
		if bytes.Contains(f.Data, secret) {
			t.Errorf("%s has the private key", f.Path)
		}
		if f.Path == layout.ImageUKI || f.Path == layout.ImageSystemdBoot {
			signed++
			if err := secureboot.SignedBy(f.Data, keys.DB.Certificate); err != nil {
				t.Errorf("%s: %v", f.Path, err)
			}
		}
		if f.Link == "" && !f.Mode.IsDir() && !f.Removed {
			tree[f.Path] = &fstest.MapFile{Data: f.Data, Mode: f.Mode}
		}
	}
	if signed != 2 {
		t.Errorf("%d signed files", signed)
	}
	again, err := Make(tree, Options{Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range again.Files {
		isSigned := f.Path == layout.ImageUKI || f.Path == layout.ImageSystemdBoot
		if isSigned && !bytes.Equal(f.Data, tree[f.Path].Data) {
			t.Errorf("%s is another file in a build without the key", f.Path)
		}
	}
	if _, err := Make(tree, Options{Arch: "amd64", Labels: map[string]string{
		layout.ImageLabelCmdline: "quiet"}}); !errors.Is(err, boot.ErrNoKey) {
		t.Errorf("another command line without the key: %v", err)
	}
}
