package sign

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
)

func record(t *testing.T, version string) []byte {
	t.Helper()
	hex := strings.Repeat("a", 64)
	b, err := layout.Release{
		Version: version, Config: layout.Digest("sha256:" + hex), Arch: "amd64",
		Layers: []layout.Layer{{DiffID: layout.Digest("sha256:" + hex), Size: 4096, RootHash: hex}},
	}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func makeKey(t *testing.T, algorithm string) Key {
	t.Helper()
	k, err := NewKey(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signed(t *testing.T, k Key, record []byte) trust.Signature {
	t.Helper()
	s, err := k.Sign(record)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeys(t *testing.T) {
	for _, algorithm := range []string{trust.Ed25519, trust.ECDSA} {
		k := makeKey(t, algorithm)
		file, err := k.PrivatePEM()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseKey(file)
		if err != nil || again.ID != k.ID || again.Algorithm != algorithm {
			t.Errorf("%s: %+v, %v", algorithm, again.PublicKey, err)
		}
		public, err := trust.ParsePublicKey(k.PEM())
		if err != nil || public.ID != k.ID || !bytes.Equal(public.PEM(), k.PEM()) {
			t.Errorf("%s: %+v, %v", algorithm, public, err)
		}
		// The same key and input: the same bytes.
		r := record(t, "v1")
		if a, b := signed(t, k, r), signed(t, again, r); !bytes.Equal(a.Signature, b.Signature) {
			t.Errorf("%s: signed twice: %x, %x", algorithm, a.Signature, b.Signature)
		}
		for name, bad := range map[string][]byte{
			"a private key": file,
			"two keys":      append(k.PEM(), k.PEM()...),
			"nothing":       nil,
			"too long":      append(k.PEM(), make([]byte, trust.MaxKeySize)...),
		} {
			if _, err := trust.ParsePublicKey(bad); err == nil {
				t.Errorf("%s as a public key: read", name)
			}
		}
		if _, err := ParseKey(k.PEM()); err == nil {
			t.Error("a public key as a private one: read")
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(other.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err == nil {
		t.Error("a key on P-384: read")
	}
}

func TestVerify(t *testing.T) {
	ed, ec, stranger := makeKey(t, "ed25519"), makeKey(t, "ecdsa-p256"), makeKey(t, "ed25519")
	keys := []trust.PublicKey{ed.PublicKey, ec.PublicKey}
	v1, v2 := record(t, "v1"), record(t, "v2")
	flipped := signed(t, ed, v1)
	flipped.Signature = bytes.Clone(flipped.Signature)
	flipped.Signature[5] ^= 1
	renamed := signed(t, stranger, v1)
	renamed.Key = ed.ID
	crossed := signed(t, ec, v1)
	crossed.Algorithm = trust.Ed25519
	one := func(s ...trust.Signature) trust.Signatures { return s }
	for name, c := range map[string]struct {
		signatures trust.Signatures
		keys       []trust.PublicKey
		threshold  int
		ok         bool
	}{
		"ed25519":                    {one(signed(t, ed, v1)), keys, 1, true},
		"ECDSA":                      {one(signed(t, ec, v1)), keys, 1, true},
		"two of two":                 {one(signed(t, ed, v1), signed(t, ec, v1)), keys, 2, true},
		"and a stranger":             {one(signed(t, stranger, v1), signed(t, ed, v1)), keys, 1, true},
		"one good behind a bad one":  {one(flipped, signed(t, ed, v1)), keys, 1, true},
		"none":                       {nil, keys, 1, false},
		"a stranger":                 {one(signed(t, stranger, v1)), keys, 1, false},
		"a stranger by another name": {one(renamed), keys, 1, false},
		"another release's":          {one(signed(t, ed, v2)), keys, 1, false},
		"a bit of it":                {one(flipped), keys, 1, false},
		"another algorithm":          {one(crossed), keys, 1, false},
		"one of two":                 {one(signed(t, ed, v1)), keys, 2, false},
		"one twice":                  {one(signed(t, ed, v1), signed(t, ed, v1)), keys, 2, false},
		"one key twice":              {one(signed(t, ed, v1)), []trust.PublicKey{keys[0], keys[0]}, 2, false},
		"no keys":                    {one(signed(t, ed, v1)), nil, 1, false},
		"none asked for":             {nil, keys, 0, false},
	} {
		if _, err := trust.Verify(v1, c.signatures, c.keys, c.threshold); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ed.Sign([]byte("{}")); err == nil {
		t.Error("something else than a release is signed")
	}
	if _, err := trust.Detached(v2, ed.PublicKey, signed(t, ed, v1).Signature); err == nil {
		t.Error("an answer for another release is taken")
	}
}

func FuzzParsePublicKey(f *testing.F) {
	for _, algorithm := range []string{trust.Ed25519, trust.ECDSA} {
		k, err := NewKey(algorithm)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(k.PEM())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := trust.ParsePublicKey(b)
		if err != nil {
			return
		}
		if again, err := trust.ParsePublicKey(k.PEM()); err != nil || again.ID != k.ID {
			t.Errorf("%s, then %s, %v", k.ID, again.ID, err)
		}
	})
}
