package pcr

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"reflect"
	"strings"
	"testing"
)

func key(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What is signed is verified by the standard library, and the same key and value give the same bytes.
func TestSign(t *testing.T) {
	k := key(t, KeyBits)
	v := Value{}.Extend([]byte("section")).Extend([]byte("word"))
	list, err := Sign(k, v, Value{})
	if err != nil {
		t.Fatal(err)
	}
	file := Marshal(list)
	again, err := Sign(k, v, Value{})
	if err != nil || !bytes.Equal(Marshal(again), file) {
		t.Errorf("the second time:\n%s\n%s\n%v", file, Marshal(again), err)
	}
	read, err := Parse(file)
	if err != nil || !reflect.DeepEqual(read, list) {
		t.Errorf("read: %+v, %v\nwant %+v", read, err, list)
	}
	for i, policy := range [][sha256.Size]byte{v.Policy(), Value{}.Policy()} {
		sum := sha256.Sum256(policy[:])
		if list[i].Policy != policy {
			t.Errorf("number %d is for %x, want %x", i, list[i].Policy, policy)
		}
		if err := rsa.VerifyPKCS1v15(&k.PublicKey, crypto.SHA256, sum[:], list[i].Signature); err != nil {
			t.Errorf("number %d: %v", i, err)
		}
	}
	if want := sha256.Sum256(x509.MarshalPKCS1PublicKey(&k.PublicKey)); list[0].Key != want {
		t.Errorf("the key is %x, want %x", list[0].Key, want)
	}
}

// The file of signatures that systemd-measure writes is read: of its entries those for PCR 11 of the SHA-256 bank.
func TestParse(t *testing.T) {
	const entry = `{"pcrs":[11],"pkfp":"` + "5b15788b18db350447e0d841a16828e52731e6a4ab9f5e5aef31135c71baa286" + `",
		"pol":"2dc5e0ed0c4dc0d9c86a3a1b3f1ccfbb4cc3ba0a7ca0a4ad0c5e6c2bdf6ce6b6","sig":"AAEC"}`
	list, err := Parse([]byte(`{"sha1":[{"pcrs":[11],"pkfp":"","pol":"","sig":""}],
		"sha256":[{"pcrs":[4],"pkfp":"","pol":"","sig":""},` + entry + `]}`))
	if err != nil || len(list) != 1 || !bytes.Equal(list[0].Signature, []byte{0, 1, 2}) || list[0].Key[0] != 0x5b {
		t.Errorf("%+v, %v", list, err)
	}
	for what, file := range map[string]string{
		"no JSON":         "nonsense",
		"another bank":    `{"sha256": 5}`,
		"a short digest":  strings.Replace(`{"sha256":[`+entry+`]}`, "5b15", "5b", 1),
		"no hex":          strings.Replace(`{"sha256":[`+entry+`]}`, "5b15", "zz15", 1),
		"no base64":       strings.Replace(`{"sha256":[`+entry+`]}`, "AAEC", "A", 1),
		"no signature":    strings.Replace(`{"sha256":[`+entry+`]}`, "AAEC", "", 1),
		"too many":        `{"sha256":[` + strings.Repeat(`{},`, maxSignatures) + `{}]}`,
		"too many bytes":  `{"sha256":[` + strings.Repeat(" ", MaxSignatures) + `]}`,
		"a list of banks": `[]`,
	} {
		if list, err := Parse([]byte(file)); err == nil || !strings.Contains(err.Error(), "signatures of PCRs") {
			t.Errorf("%s: %+v, %v", what, list, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	list, err := Sign(key(f, KeyBits), Value{1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(Marshal(list))
	f.Add([]byte(`{"sha256":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(Marshal(list))
		if err != nil || !reflect.DeepEqual(again, list) {
			t.Errorf("%+v\nafterwards %+v, %v", list, again, err)
		}
	})
}

// A public key is read as the standard library writes it, and written as it does; others say what they are.
func TestParsePublic(t *testing.T) {
	k := key(t, KeyBits)
	spki := func(key any) []byte {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	want := spki(&k.PublicKey)
	got, err := ParsePublic(want)
	if err != nil || !got.Equal(&k.PublicKey) {
		t.Errorf("%v, %v", got, err)
	}
	if b := MarshalPublic(&k.PublicKey); !bytes.Equal(b, want) {
		t.Errorf("%s\nwant\n%s", b, want)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{
		"BEGIN PUBLIC KEY ":          []byte("nonsense"),
		"want one, PEM":              append(bytes.Clone(want), want...),
		"BEGIN PUBLIC KEY":           bytes.ReplaceAll(want, []byte("PUBLIC KEY"), []byte("CERTIFICATE")),
		"no SubjectPublicKeyInfo":    pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1, 2, 3}}),
		"it is not RSA":              spki(&curve.PublicKey),
		"RSA with 1024 bits":         spki(&key(t, 1024).PublicKey),
		"its exponent is 3":          spki(&rsa.PublicKey{N: k.N, E: 3}),
		"at most 16384 are read":     append(bytes.Repeat([]byte("\n"), MaxKeySize), want...),
		"RSA with 3072 bits: want 2": spki(&key(t, 3072).PublicKey),
	} {
		key, err := ParsePublic(b)
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(what)) {
			t.Errorf("%s: %v, %v", what, key, err)
		}
	}
}
