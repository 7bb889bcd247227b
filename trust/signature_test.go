package trust

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

func sampleSignatures() Signatures {
	key := func(c string) layout.Digest { return layout.Digest("sha256:" + strings.Repeat(c, 64)) }
	return Signatures{
		{Key: key("a"), Algorithm: Ed25519, Signature: bytes.Repeat([]byte{1}, 64)},
		{Key: key("b"), Algorithm: ECDSA, Signature: bytes.Repeat([]byte{2}, 70)},
	}
}

func TestSignatures(t *testing.T) {
	want := sampleSignatures()
	record, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	const begin = "{\n  \"schema\": 1,\n  \"signatures\": [\n    {\n      \"key\": \"sha256:aaaa"
	if !strings.HasPrefix(string(record), begin) {
		t.Errorf("%s", record)
	}
	got, err := ParseSignatures(record)
	if err != nil || len(got) != 2 || !bytes.Equal(got[1].Signature, want[1].Signature) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, bad := range map[string]Signatures{
		"none":              nil,
		"too many":          slices.Repeat(want, maxSignatures),
		"not sorted":        {want[1], want[0]},
		"two of one key":    {want[0], want[0]},
		"another algorithm": {{Key: want[0].Key, Algorithm: "rsa", Signature: []byte{1}}},
		"no signature":      {{Key: want[0].Key, Algorithm: ECDSA}},
		"a long one":        {{Key: want[0].Key, Algorithm: ECDSA, Signature: make([]byte, 73)}},
		"no key":            {{Algorithm: ECDSA, Signature: []byte{1}}},
	} {
		if _, err := bad.Marshal(); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	for name, bad := range map[string]string{
		"another schema":   strings.Replace(string(record), `"schema": 1`, `"schema": 2`, 1),
		"a field more":     strings.Replace(string(record), `"schema": 1`, `"schema": 1, "more": 1`, 1),
		"white space":      strings.Replace(string(record), "  ", "   ", 1),
		"something behind": string(record) + "x",
		"too long":         string(record) + strings.Repeat(" ", layout.MaxSignaturesSize),
	} {
		if _, err := ParseSignatures([]byte(bad)); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

// What is signed is pinned: keys far away have signed it.
func TestSignedText(t *testing.T) {
	got := string(signedText("sha256:0123"))
	if want := "Kairos release signature, version 1\nsha256:0123\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzParseSignatures(f *testing.F) {
	b, err := sampleSignatures().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSignatures(b)
		if err != nil {
			return
		}
		if again, err := s.Marshal(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q, then %q, %v", b, again, err)
		}
	})
}
