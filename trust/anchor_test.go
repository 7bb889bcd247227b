package trust_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
	"github.com/kairos-buildkit/kairos/trust/trusttest"
)

func keys(t *testing.T, n int) (all []sign.Key) {
	t.Helper()
	for i := range n {
		k, err := sign.NewKey([]string{trust.Ed25519, trust.ECDSA}[i%2])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, k)
	}
	return all
}

func sample(t *testing.T, all []sign.Key) trust.Anchor {
	t.Helper()
	a := trust.Anchor{Threshold: 1, Epoch: 3, Cmdline: []string{"a=", "quiet"}}
	for _, k := range all {
		a.Keys = append(a.Keys, k.PublicKey)
	}
	if len(a.Keys) == 2 && a.Keys[0].ID > a.Keys[1].ID {
		a.Keys[0], a.Keys[1] = a.Keys[1], a.Keys[0]
	}
	return a
}

func signedRelease(t *testing.T, epoch int64, all []sign.Key) layout.Release {
	t.Helper()
	d := layout.SHA256([32]byte{7})
	l := layout.Layer{DiffID: d, Size: 4096, RootHash: d.Hex()}
	r := layout.Release{Version: "v1", Config: d, Arch: "amd64", Epoch: epoch, Layers: []layout.Layer{l, l}}
	if len(all) > 0 {
		r.Signatures = trusttest.Signed(t, r, all...)
	}
	return r
}

func TestAnchor(t *testing.T) {
	a := sample(t, keys(t, 2))
	b, err := a.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := trust.ParseAnchor(b)
	if err != nil {
		t.Fatal(err)
	}
	if b2, err := again.Marshal(); err != nil || !bytes.Equal(b, b2) || again.Keys[1].ID != a.Keys[1].ID {
		t.Errorf("%+v, %v", again, err)
	}
	for name, bad := range map[string]string{
		"another schema": strings.Replace(string(b), `"schema": 1`, `"schema": 2`, 1),
		"no mode":        strings.Replace(string(b), `"required"`, `""`, 1),
		"a field more":   strings.Replace(string(b), `"schema": 1`, `"schema": 1, "more": 1`, 1),
		"white space":    strings.Replace(string(b), "  ", "   ", 1),
		"behind it":      string(b) + "{}",
		"threshold 3":    strings.Replace(string(b), `"threshold": 1`, `"threshold": 3`, 1),
		"threshold 0":    strings.Replace(string(b), `"threshold": 1`, `"threshold": 0`, 1),
		"words":          strings.Replace(string(b), `"a="`, `"z="`, 1),
		"too long":       string(b) + strings.Repeat(" ", trust.MaxAnchorSize),
	} {
		if _, err := trust.ParseAnchor([]byte(bad)); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

// What /init, nodes and exporters refuse.
func TestAnchorCheck(t *testing.T) {
	all := keys(t, 2)
	a := sample(t, all)
	stranger := keys(t, 1)
	good := signedRelease(t, 3, all[:1])
	for name, c := range map[string]struct {
		change func(*trust.Anchor, *layout.Release)
		want   string
	}{
		"signed":     {func(*trust.Anchor, *layout.Release) {}, ""},
		"not signed": {func(_ *trust.Anchor, r *layout.Release) { r.Signatures = nil }, string(all[0].ID)},
		"garbage":    {func(_ *trust.Anchor, r *layout.Release) { r.Signatures = []byte("x") }, "signatures"},
		"a stranger": {func(_ *trust.Anchor, r *layout.Release) {
			*r = signedRelease(t, 3, stranger)
		}, string(all[0].ID)},
		"too few": {func(a *trust.Anchor, _ *layout.Release) { a.Threshold = 2 }, string(all[1].ID)},
		"enough": {func(a *trust.Anchor, r *layout.Release) {
			a.Threshold, *r = 2, signedRelease(t, 3, all)
		}, ""},
		"an old one":   {func(_ *trust.Anchor, r *layout.Release) { *r = signedRelease(t, 2, all) }, "epoch is 2"},
		"a layer less": {func(_ *trust.Anchor, r *layout.Release) { r.Layers = r.Layers[:1] }, "is not one of this"},
		"another root": {func(_ *trust.Anchor, r *layout.Release) {
			r.Layers = []layout.Layer{r.Layers[0], r.Layers[1]}
			r.Layers[0].RootHash = strings.Repeat("b", 64)
		}, "is not one of this"},
		"another version": {func(_ *trust.Anchor, r *layout.Release) { r.Version = "v2" }, "is not one of this"},
		"the first format": {func(_ *trust.Anchor, r *layout.Release) {
			r.Epoch = 0
			*r = r.AsV1()
		}, "first format"},
	} {
		anchor, r := a, good
		c.change(&anchor, &r)
		signed, err := anchor.Check(r, "amd64")
		switch {
		case c.want == "" && (err != nil || len(signed) == 0):
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := a.Check(good, "arm64"); err == nil || !strings.Contains(err.Error(), "for amd64") {
		t.Errorf("another architecture: %v", err)
	}
}

// Of what a registry has, one signature of each key is kept, and strangers cannot crowd out the anchor's.
func TestChoose(t *testing.T) {
	all := keys(t, 2)
	a := sample(t, all)
	r := signedRelease(t, 3, all)
	record, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	good, err := trust.ParseSignatures(r.Signatures)
	if err != nil {
		t.Fatal(err)
	}
	var crowd trust.Signatures
	for _, s := range good { // a wrong one of each key comes first
		crowd = append(crowd, trust.Signature{Key: s.Key, Algorithm: s.Algorithm, Signature: []byte{1}})
	}
	for i := range 40 {
		crowd = append(crowd, trust.Signature{
			Key: layout.Digest(fmt.Sprintf("sha256:%064x", i)), Algorithm: trust.Ed25519, Signature: []byte{1},
		})
	}
	chosen := a.Choose(record, append(crowd, good...))
	b, err := chosen.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	a.Threshold, r.Signatures = 2, b
	if _, err := a.Check(r, "amd64"); err != nil || len(b) > layout.MaxSignaturesSize {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func FuzzParseAnchor(f *testing.F) {
	k, err := sign.NewKey(trust.Ed25519)
	if err != nil {
		f.Fatal(err)
	}
	b, err := trust.Anchor{Keys: []trust.PublicKey{k.PublicKey}, Threshold: 1, Cmdline: []string{"a="}}.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := trust.ParseAnchor(b)
		if err != nil {
			return
		}
		if again, err := a.Marshal(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q, then %q, %v", b, again, err)
		}
	})
}
