package exporter

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/opencontainers/go-digest"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
)

// sealedBy is an image that trusts some keys by a policy.
func sealedBy(t *testing.T, policy string, labels map[string]string, keys ...sign.Key) image.Image {
	t.Helper()
	tree := boottest.Tree(kernel)
	for i, k := range keys {
		tree[fmt.Sprintf("%s/%d.pub", layout.ImageTrustDir, i)] = text(string(k.PEM()))
	}
	tree[layout.ImageTrustPolicy] = text(policy)
	return imageOf(t, labels, layerOf(t, tree), layerOf(t, bootFiles(t, tree, boot.OptionsFrom(labels))))
}

// untouched fails the test at the first byte.
type untouched struct {
	t    *testing.T
	what string
}

func (u untouched) Write(b []byte) (int, error) {
	u.t.Errorf("%s: %d bytes were written", u.what, len(b))
	return len(b), nil
}

// What two of three keys have not signed is on no medium, whoever asks for it, and nothing is written before that is
// known.
func TestSealedMediumRefusesHostileSignatures(t *testing.T) {
	keys := []sign.Key{signKey(t), signKey(t), signKey(t)}
	stranger := signKey(t)
	const two = `{"threshold": 2, "epoch": 4}`
	img := sealedBy(t, two, map[string]string{layout.ImageLabelEpoch: "4"}, keys...)
	old := sealedBy(t, two, map[string]string{layout.ImageLabelEpoch: "3"}, keys...)
	type signatures = func(context.Context, trust.Anchor, layout.Release) ([]byte, error)
	raw := func(all ...trust.Signature) ([]byte, error) {
		s := trust.Signatures(all)
		s.Sort()
		return s.Marshal()
	}
	of := func(r layout.Release, k sign.Key) trust.Signature {
		record, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		s, err := k.Sign(record)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	cache := t.TempDir()
	for name, c := range map[string]struct {
		img    image.Image
		signed signatures
		want   string
	}{
		"two of three":       {img, signedBy(keys[0], keys[2]), ""},
		"an old one":         {old, signedBy(keys...), "its epoch is 3, and 4 is the lowest"},
		"one":                {img, signedBy(keys[1]), "1 of 2 signatures"},
		"one and a stranger": {img, signedBy(keys[1], stranger), "1 of 2 signatures"},
		"one, and as another": {img, func(_ context.Context, _ trust.Anchor, r layout.Release) ([]byte, error) {
			as := of(r, keys[0])
			as.Key = keys[1].ID
			return raw(of(r, keys[0]), as)
		}, string(keys[1].ID) + ": its signature is not one"},
		"one twice": {img, func(_ context.Context, _ trust.Anchor, r layout.Release) ([]byte, error) {
			return raw(of(r, keys[0]), of(r, keys[0]))
		}, "two of one key"},
		"another release's": {img, func(_ context.Context, _ trust.Anchor, r layout.Release) ([]byte, error) {
			r.Version = "another one"
			return raw(of(r, keys[0]), of(r, keys[1]))
		}, "is not one of this release.json"},
		"for another domain": {img, func(_ context.Context, _ trust.Anchor, r layout.Release) ([]byte, error) {
			record, err := r.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			var all []trust.Signature
			for _, k := range keys[:2] {
				b, err := k.PrivatePEM()
				if err != nil {
					t.Fatal(err)
				}
				block, _ := pem.Decode(b)
				private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, trust.Signature{
					Key: k.ID, Algorithm: k.Algorithm, Signature: ed25519.Sign(private.(ed25519.PrivateKey), record),
				})
			}
			return raw(all...)
		}, "is not one of this release.json"},
	} {
		for _, format := range []Format{FormatISO, FormatRaw} {
			if c.want == "" {
				export(t, c.img, format, Options{Signatures: c.signed, Cache: cache})
				continue
			}
			o := Options{Signatures: c.signed, Cache: cache}
			err := Export(t.Context(), untouched{t, name}, c.img, format, o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: %v, want %q", name, format, err, c.want)
			}
		}
	}
}

// A medium that is made of a medium has what the keys have signed, or is not made: a release from which a layer was
// taken, in which two are exchanged, or that another one's signatures are beside.
func TestMediumOfAHostileMediumRefused(t *testing.T) {
	key := signKey(t)
	tree := boottest.Tree(kernel)
	tree[layout.ImageTrustDir+"/release.pub"] = text(string(key.PEM()))
	img := imageOf(t, nil, layerOf(t, tree), layerOf(t, bootFiles(t, tree, boot.Options{})),
		layerOf(t, fstest.MapFS{"etc/top": text("it takes away what is below")}))
	iso, _ := exportFile(t, img, FormatISO, Options{Signatures: signedBy(key)})
	const other = "is not the one of its release"
	const none = "is not one of this release.json"
	for name, c := range map[string]struct {
		change func(*layout.Release)
		layers func([]image.Layer) []image.Layer // of the medium, where they follow the list
		want   string
	}{
		"the top layer dropped": {func(r *layout.Release) { r.Layers = r.Layers[:1] }, nil, "its release 1"},
		"the top layer dropped from the medium, too": {func(r *layout.Release) { r.Layers = r.Layers[:2] },
			func(l []image.Layer) []image.Layer { return l[:2] }, none},
		"layers reordered": {func(r *layout.Release) {
			r.Layers[0], r.Layers[1] = r.Layers[1], r.Layers[0]
		}, nil, other},
		"layers reordered on the medium, too": {func(r *layout.Release) {
			r.Layers[0], r.Layers[1] = r.Layers[1], r.Layers[0]
		}, func(l []image.Layer) []image.Layer {
			l[0], l[1] = l[1], l[0]
			return l
		}, none},
		"a root exchanged": {func(r *layout.Release) { r.Layers[0].RootHash = strings.Repeat("b", 64) }, nil, other},
		"a higher epoch":   {func(r *layout.Release) { r.Epoch = 9 }, nil, none},
		"another UKI":      {func(r *layout.Release) { r.UKI = r.Config }, nil, none},
		"not signed":       {func(r *layout.Release) { r.Signatures = nil }, nil, "it is not signed"},
	} {
		medium := openMedium(t, source.ISO, iso)
		made := *medium.Made
		made.Layers = slices.Clone(made.Layers)
		c.change(&made)
		medium.Made = &made
		if c.layers != nil {
			medium.Layers = c.layers(slices.Clone(medium.Layers))
			medium.Config.RootFS.DiffIDs = nil
			for _, l := range medium.Layers {
				medium.Config.RootFS.DiffIDs = append(medium.Config.RootFS.DiffIDs, digest.Digest(l.DiffID))
			}
		}
		err := Export(t.Context(), untouched{t, name}, medium, FormatRaw, Options{Cache: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
