package secureboot

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// efitools make the same file that adds to db or dbx, and read the list in it; and of each file it is found out what
// it changes, which nothing but its signature says.
func TestUpdate(t *testing.T) {
	ours, stranger := keys(t)
	private, err := ours.KEK.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	added := Database{Certificates: []*x509.Certificate{stranger.DB.Certificate}, Programs: [][32]byte{{1}, {2}}}
	files, err := ours.Enrolment(epoch, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"db", "dbx"} {
		b, err := ours.KEK.Append(name, added, ours.Owner, epoch)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		in := func(name string) string { return filepath.Join(dir, name) }
		if err := os.WriteFile(in("esl"), added.Marshal(ours.Owner), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, true, "sign-efi-sig-list", "-a", "-t", epoch.Format("2006-01-02 15:04:05"),
			"-k", write(t, "key", private), "-c", write(t, "by", ours.KEK.CertificatePEM()),
			name, in("esl"), in("auth"))
		want, err := os.ReadFile(in("auth"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, want) {
			t.Errorf("%s: efitools make another file:\n%s", name, cmp.Diff(want, b))
		}
		run(t, true, "sig-list-to-certs", in("esl"), in("cert"))
		der, err := os.ReadFile(in("cert-0.der"))
		if err != nil || !bytes.Equal(der, stranger.DB.Certificate.Raw) {
			t.Errorf("%s: efitools read another certificate: %v", name, err)
		}
		files["more "+name] = b
	}
	for file, b := range files {
		u, err := ParseUpdate(b)
		name, appends := strings.CutPrefix(file, "more ")
		by := map[string]*Signer{"PK": ours.PK, "KEK": ours.PK}[name]
		if by == nil {
			by = ours.KEK
		}
		if err != nil || u.Name != name || u.Appends != appends || !u.Signer.Equal(by.Certificate) ||
			len(u.Content.Certificates) != 1 || !bytes.Equal(u.Data, b) {
			t.Errorf("%s: %+v, %v", file, u, err)
		}
		for what, changed := range map[string][]byte{
			"a part of it": b[:len(b)-1], "another content": flip(b, len(b)-1), "another time": flip(b, 4),
			"another signature": flip(b, len(b)-len(u.Content.Marshal(ours.Owner))-1), "nothing": nil,
			"no header": b[20:], "too large": append(bytes.Clone(b), make([]byte, MaxUpdateSize)...),
		} {
			if u, err := ParseUpdate(changed); err == nil {
				t.Errorf("%s, %s: %+v", file, what, u)
			}
		}
	}
	if _, err := ours.KEK.Append("KEK", added, ours.Owner, epoch); err == nil {
		t.Error("KEK is added to")
	}
	if _, err := ours.KEK.Append("db", Database{}, ours.Owner, epoch); err == nil {
		t.Error("nothing is added")
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

func FuzzUpdate(f *testing.F) {
	f.Add(make([]byte, variableHeader))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, err := ParseUpdate(b); err == nil {
			t.Errorf("it is a change of %s that nobody has signed", u.Name)
		}
	})
}
