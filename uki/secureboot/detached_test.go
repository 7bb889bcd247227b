package secureboot

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/layout"
)

// A signature that is apart gives the file the bytes that signing it gives, and no other signature is put on it.
func TestDetached(t *testing.T) {
	ours, stranger := keys(t)
	all := programs(t)
	program, other := all["UKI"], all["systemd-boot"]
	signature, err := ours.DB.Detached(program)
	if err != nil {
		t.Fatal(err)
	}
	want, err := ours.DB.Sign(program)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := stranger.DB.Detached(program)
	if err != nil {
		t.Fatal(err)
	}
	ofOther, err := ours.DB.Detached(other)
	if err != nil {
		t.Fatal(err)
	}
	// A good signature with one more certificate, which nothing signs.
	p, err := parseSigned(signature)
	if err != nil {
		t.Fatal(err)
	}
	p.Certificates = tagged(append(bytes.Clone(ours.DB.Certificate.Raw), stranger.DB.Certificate.Raw...))
	more, err := p.signedWith(p.Signers[0].Signature)
	if err != nil {
		t.Fatal(err)
	}
	if more, err = whole(more); err != nil {
		t.Fatal(err)
	}
	cert := ours.DB.Certificate
	for name, c := range map[string]struct {
		signatures [][]byte
		want       string
	}{
		"good":                  {[][]byte{signature}, ""},
		"good behind a foreign": {[][]byte{foreign, signature}, ""},
		"foreign":               {[][]byte{foreign}, "and not by"},
		"of another file":       {[][]byte{ofOther}, "one of another program"},
		"cut":                   {[][]byte{signature[:len(signature)-1]}, "the signature is cut"},
		"empty":                 {[][]byte{{}}, "the signature is cut"},
		"with something behind": {[][]byte{append(bytes.Clone(signature), 0)}, "something is behind it"},
		"with more in it":       {[][]byte{more}, "something is in it that is not signed"},
		"none":                  {nil, ErrUnsigned.Error()},
	} {
		var list DetachedList
		for _, s := range c.signatures {
			list = append(list, Detached{layout.ImageUKI, s})
		}
		list = append(list, Detached{layout.ImageSystemdBoot, signature})
		got, err := list.Attach(layout.ImageUKI, program, cert)
		if c.want == "" {
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: other bytes than signed at once: %v", name, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	back, err := Detach(layout.ImageUKI, want)
	if err != nil || !bytes.Equal(back.Signature, signature) {
		t.Errorf("taken from the file, the signature is another one: %v", err)
	}
	run(t, true, "sbverify", "--cert", write(t, "db.pem", ours.DB.CertificatePEM()), write(t, "signed.efi", want))
}

// The key may be elsewhere: it signs a text.
func TestDetachedElsewhere(t *testing.T) {
	ours, stranger := keys(t)
	program := programs(t)["UKI"]
	cert := ours.DB.Certificate
	text, err := Text(program, cert)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(k *Signer) []byte {
		private, err := k.KeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		key := write(t, "key", private)
		return []byte(run(t, true, "openssl", "dgst", "-sha256", "-sign", key, write(t, "text", text)))
	}
	got, err := Answered(program, cert, answer(ours.DB))
	if err != nil {
		t.Fatal(err)
	}
	if want, err := ours.DB.Detached(program); err != nil || !bytes.Equal(got, want) {
		t.Errorf("signed elsewhere: other bytes: %v", err)
	}
	for name, bad := range map[string][]byte{"foreign": answer(stranger.DB), "none": nil, "short": {1, 2, 3}} {
		if _, err := Answered(program, cert, bad); err == nil || !strings.Contains(err.Error(), "it is wrong") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckTime(t *testing.T) {
	ours, _ := keys(t)
	c := ours.DB.Certificate
	for now, ok := range map[time.Time]bool{
		c.NotBefore: true, c.NotAfter: true, c.NotBefore.Add(-1): false, c.NotAfter.Add(1): false,
	} {
		if err := CheckTime(c, now); (err == nil) != ok {
			t.Errorf("%s: %v", now, err)
		}
	}
}

// The record has one encoding.
func TestParseDetached(t *testing.T) {
	good := DetachedList{
		{layout.ImageSystemdBoot, []byte("b")}, {layout.ImageUKI, []byte("c")}, {layout.ImageUKI, []byte("a")},
		{layout.ImageUKI, []byte("a")},
	}
	b, err := good.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseDetached(b)
	if err != nil || len(got) != 3 || string(got[0].Signature) != "a" {
		t.Errorf("%+v, %v", got, err)
	}
	for name, bad := range map[string]string{
		"no JSON":          "x",
		"another format":   strings.Replace(string(b), `"schema": 1`, `"schema": 2`, 1),
		"another order":    `{"schema":1,"signatures":[{"file":"boot/kairos.efi","signature":"YQ=="}]}`,
		"an unknown file":  strings.ReplaceAll(string(b), "kairos.efi", "other.efi"),
		"an unknown field": strings.Replace(string(b), `"schema"`, `"x": 1, "schema"`, 1),
		"none":             "{\n  \"schema\": 1,\n  \"signatures\": []\n}\n",
		"too large":        string(b) + strings.Repeat(" ", layout.MaxBootSignaturesSize),
	} {
		if _, err := ParseDetached([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := (DetachedList{{layout.ImageUKI, make([]byte, maxSignature+1)}}).Marshal(); err == nil {
		t.Error("too large a signature: accepted")
	}
}

func FuzzParseDetached(f *testing.F) {
	b, err := DetachedList{{layout.ImageUKI, []byte("a")}}.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseDetached(b)
		if err != nil {
			return
		}
		if again, err := l.Marshal(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q, then %q, %v", b, again, err)
		}
	})
}

// Whatever a signature is, putting it on a file ends with an error, or gives a file that the key has signed.
func FuzzAttach(f *testing.F) {
	list, err := testKeys()
	if err != nil {
		f.Fatal(err)
	}
	program := boottest.Program("a program")
	good, err := list[0].DB.Detached(program)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := (DetachedList{{layout.ImageUKI, b}}).Attach(layout.ImageUKI, program, list[0].DB.Certificate)
		if err == nil && !bytes.Equal(b, good) {
			t.Error("two signatures of one file by one key")
		}
	})
}
