package exporter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/medium"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
)

func signKey(t *testing.T) sign.Key {
	t.Helper()
	k, err := sign.NewKey(trust.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sealedImage is an image that trusts a key.
func sealedImage(t *testing.T, key sign.Key, labels map[string]string) image.Image {
	t.Helper()
	tree := boottest.Tree(kernel)
	tree[layout.ImageTrustDir+"/release.pub"] = text(string(key.PEM()))
	return imageOf(t, labels, layerOf(t, tree), layerOf(t, bootFiles(t, tree, boot.OptionsFrom(labels))))
}

// signedBy returns an option that signs what the image becomes.
func signedBy(keys ...sign.Key) func(context.Context, trust.Anchor, layout.Release) ([]byte, error) {
	return func(_ context.Context, _ trust.Anchor, r layout.Release) ([]byte, error) {
		s, err := sign.Release(r, keys)
		if err != nil {
			return nil, err
		}
		return s.Marshal()
	}
}

// What an image with keys becomes has their signatures, on each medium and on those that are made of media.
func TestSealedMedium(t *testing.T) {
	key := signKey(t)
	img := sealedImage(t, key, map[string]string{layout.ImageLabelEpoch: "4"})
	img.Manifest.Digest = digest.FromString("manifest")
	o := Options{Signatures: signedBy(key)}
	iso, isoSum := exportFile(t, img, FormatISO, o)
	raw, rawSum := exportFile(t, img, FormatRaw, o)
	again := openMedium(t, source.ISO, iso)
	trusted := trust.Anchor{Keys: []trust.PublicKey{key.PublicKey}, Threshold: 1, Epoch: 4}
	for name, made := range map[string]*layout.Release{
		"ISO": again.Made, "disk": openMedium(t, source.Disk, raw).Made,
	} {
		if _, err := trusted.Check(*made, "amd64"); err != nil || made.Manifest == "" {
			t.Errorf("%s: %+v, %v", name, made, err)
		}
	}
	if _, sum := exportFile(t, again, FormatRaw, Options{}); sum != rawSum {
		t.Error("a disk from the ISO: other bytes than from the image")
	}
	if _, sum := exportFile(t, openMedium(t, source.Disk, raw), FormatISO, Options{}); sum != isoSum {
		t.Error("an ISO from the disk: other bytes than from the image")
	}
}

// An export refuses what /init would refuse.
func TestSealedMediumRefused(t *testing.T) {
	key, stranger := signKey(t), signKey(t)
	img := sealedImage(t, key, nil)
	const words = "#cloud-config\ninstall:\n  grub_options: {extra_cmdline: my.word}\n"
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"not signed":           {Options{}, "it is not signed"},
		"by a stranger":        {Options{Signatures: signedBy(stranger)}, string(key.ID)},
		"with a config's word": {Options{Signatures: signedBy(key), CloudConfig: []byte(words)}, "its UKI is"},
	} {
		err := Export(t.Context(), io.Discard, img, FormatRaw, c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// Where it only warns, it is said.
	said := ""
	warns := sealedImage(t, key, map[string]string{layout.ImageLabelTrust: layout.TrustWarn})
	o := Options{Warn: func(s string) { said += s }}
	err := Export(t.Context(), io.Discard, warns, FormatISO, o)
	if err != nil || !strings.Contains(said, "not signed") {
		t.Errorf("%q, %v", said, err)
	}
}

// An image without keys is not asked for signatures, and its medium has none.
func TestUnsealedMediumIsAsBefore(t *testing.T) {
	base, user, bootLayer := bootable(t)
	img := imageOf(t, nil, base, user, bootLayer)
	asked := false
	b := export(t, img, FormatISO, Options{
		Signatures: func(context.Context, trust.Anchor, layout.Release) ([]byte, error) {
			asked = true
			return nil, nil
		},
	})
	if asked || !bytes.Equal(b, export(t, img, FormatISO, Options{})) {
		t.Error("the medium of an image without keys has changed")
	}
	for name := range maps.Keys(mediumFiles(t, b)) {
		if strings.HasSuffix(name, ".sig") {
			t.Errorf("it has %s", name)
		}
	}
}

// What is signed on a medium is all that boots: a bit that changes in a layer, a boot file, or the list is found.
func TestVerifySealedMedium(t *testing.T) {
	key := signKey(t)
	img := sealedImage(t, key, map[string]string{layout.ImageLabelCompression: "none"})
	marks := []string{"KAIROS_VERSION=", "\"rootHash\": \"", "ID=reset"} // in a layer, in the list, in the UKI
	for _, format := range []Format{FormatRaw, FormatISO} {
		name, _ := exportFile(t, img, format, Options{Signatures: signedBy(key)})
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		verify := func(b []byte) error {
			m, err := medium.Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				return err
			}
			if len(m.Problems) > 0 || len(m.Releases) == 0 {
				return fmt.Errorf("%d releases, %q", len(m.Releases), m.Problems)
			}
			a := trust.Anchor{Keys: []trust.PublicKey{key.PublicKey}, Threshold: 1}
			for i := range m.Releases {
				if _, err := a.Check(m.Releases[i].Release, "amd64"); err != nil {
					return err
				}
				if err := m.Verify(t.Context(), &m.Releases[i]); err != nil {
					return err
				}
			}
			return nil
		}
		if err := verify(whole); err != nil {
			t.Errorf("%s: a pristine medium: %v", format, err)
		}
		for _, mark := range marks {
			at, found := 0, 0
			for found < 2 {
				i := bytes.Index(whole[at:], []byte(mark))
				if i < 0 {
					break
				}
				at, found = at+i+len(mark), found+1
				whole[at] ^= 1
				if err := verify(whole); err == nil {
					t.Errorf("%s: a bit behind %q at %d is not missed", format, mark, at)
				}
				whole[at] ^= 1
			}
			if found == 0 {
				t.Errorf("%s: it has no %q", format, mark)
			}
		}
	}
}
