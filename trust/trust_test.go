package trust

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

func newKey(t *testing.T, algorithm string) PrivateKey {
	t.Helper()
	k, err := NewPrivateKey(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t *testing.T, k PrivateKey, record []byte) Signature {
	t.Helper()
	s, err := k.Sign(record)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeys(t *testing.T) {
	for _, algorithm := range []string{Ed25519, ECDSA} {
		k := newKey(t, algorithm)
		file, err := k.PrivatePEM()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParsePrivateKey(file)
		if err != nil || again.ID != k.ID || again.Algorithm != algorithm {
			t.Errorf("%s: %+v, %v", algorithm, again.PublicKey, err)
		}
		public, err := ParsePublicKey(k.PEM())
		if err != nil || public.ID != k.ID || !bytes.Equal(public.PEM(), k.PEM()) {
			t.Errorf("%s: %+v, %v", algorithm, public, err)
		}
		// The same key and input: the same bytes.
		r := record(t, "v1")
		if a, b := sign(t, k, r), sign(t, again, r); !bytes.Equal(a.Signature, b.Signature) {
			t.Errorf("%s: signed twice: %x, %x", algorithm, a.Signature, b.Signature)
		}
		for name, bad := range map[string][]byte{
			"a private key": file,
			"two keys":      append(k.PEM(), k.PEM()...),
			"nothing":       nil,
			"too long":      append(k.PEM(), make([]byte, MaxKeySize)...),
		} {
			if _, err := ParsePublicKey(bad); err == nil {
				t.Errorf("%s as a public key: read", name)
			}
		}
		if _, err := ParsePrivateKey(k.PEM()); err == nil {
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
	if _, err := ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: der})); err == nil {
		t.Error("a key on P-384: read")
	}
}

func TestVerify(t *testing.T) {
	ed, ec, stranger := newKey(t, "ed25519"), newKey(t, "ecdsa-p256"), newKey(t, "ed25519")
	keys := []PublicKey{ed.PublicKey, ec.PublicKey}
	v1, v2 := record(t, "v1"), record(t, "v2")
	flipped := sign(t, ed, v1)
	flipped.Signature = bytes.Clone(flipped.Signature)
	flipped.Signature[5] ^= 1
	renamed := sign(t, stranger, v1)
	renamed.Key = ed.ID
	crossed := sign(t, ec, v1)
	crossed.Algorithm = Ed25519
	one := func(s ...Signature) Signatures { return s }
	for name, c := range map[string]struct {
		signatures Signatures
		keys       []PublicKey
		threshold  int
		ok         bool
	}{
		"ed25519":                    {one(sign(t, ed, v1)), keys, 1, true},
		"ECDSA":                      {one(sign(t, ec, v1)), keys, 1, true},
		"two of two":                 {one(sign(t, ed, v1), sign(t, ec, v1)), keys, 2, true},
		"and a stranger":             {one(sign(t, stranger, v1), sign(t, ed, v1)), keys, 1, true},
		"one good behind a bad one":  {one(flipped, sign(t, ed, v1)), keys, 1, true},
		"none":                       {nil, keys, 1, false},
		"a stranger":                 {one(sign(t, stranger, v1)), keys, 1, false},
		"a stranger by another name": {one(renamed), keys, 1, false},
		"another release's":          {one(sign(t, ed, v2)), keys, 1, false},
		"a bit of it":                {one(flipped), keys, 1, false},
		"another algorithm":          {one(crossed), keys, 1, false},
		"one of two":                 {one(sign(t, ed, v1)), keys, 2, false},
		"one twice":                  {one(sign(t, ed, v1), sign(t, ed, v1)), keys, 2, false},
		"one key twice":              {one(sign(t, ed, v1)), []PublicKey{keys[0], keys[0]}, 2, false},
		"no keys":                    {one(sign(t, ed, v1)), nil, 1, false},
		"none asked for":             {nil, keys, 0, false},
	} {
		if _, err := Verify(v1, c.signatures, c.keys, c.threshold); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ed.Sign([]byte("{}")); err == nil {
		t.Error("something else than a release is signed")
	}
	if _, err := Detached(v2, ed.PublicKey, sign(t, ed, v1).Signature); err == nil {
		t.Error("an answer for another release is taken")
	}
}

func FuzzParsePublicKey(f *testing.F) {
	for _, algorithm := range []string{Ed25519, ECDSA} {
		k, err := NewPrivateKey(algorithm)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(k.PEM())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParsePublicKey(b)
		if err != nil {
			return
		}
		if again, err := ParsePublicKey(k.PEM()); err != nil || again.ID != k.ID {
			t.Errorf("%s, then %s, %v", k.ID, again.ID, err)
		}
	})
}
