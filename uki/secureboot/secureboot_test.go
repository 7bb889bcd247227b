package secureboot

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kairos-buildkit/kairos/assets"
	"github.com/kairos-buildkit/kairos/uki"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// testKeys are two owners': RSA keys take a while.
var testKeys = sync.OnceValues(func() (list [2]*Keys, err error) {
	for i, name := range []string{"ours", "stranger"} {
		if list[i], err = NewKeys(name, epoch); err != nil {
			return list, err
		}
	}
	return list, nil
})

func keys(t *testing.T) (ours, stranger *Keys) {
	t.Helper()
	list, err := testKeys()
	if err != nil {
		t.Fatal(err)
	}
	return list[0], list[1]
}

// programs are a boot loader and a UKI.
func programs(t *testing.T) map[string][]byte {
	t.Helper()
	a, err := assets.FS("amd64")
	if err != nil {
		t.Fatal(err)
	}
	loader, err := fs.ReadFile(a, "systemd-boot.efi")
	if err != nil {
		t.Fatal(err)
	}
	stub, err := fs.ReadFile(a, "stub.efi")
	if err != nil {
		t.Fatal(err)
	}
	program, err := uki.Append(stub, []uki.Section{
		{Name: uki.Cmdline, Data: []byte("quiet")}, {Name: uki.Linux, Data: bytes.Repeat([]byte("kernel"), 12345)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"systemd-boot": loader, "UKI": program}
}

func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func run(t *testing.T, ok bool, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s (packages sbsigntool, osslsigncode, efitools): %v", name, err)
	}
	if (err == nil) != ok {
		t.Errorf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Two programs that we did not write agree with a signature, and not with one of another key or of a changed program.
// The same key signs with the same bytes, and what is signed is the program without the signature.
func TestSign(t *testing.T) {
	ours, stranger := keys(t)
	right := write(t, "right.pem", ours.DB.CertificatePEM())
	wrong := write(t, "wrong.pem", stranger.DB.CertificatePEM())
	for name, program := range programs(t) {
		t.Run(name, func(t *testing.T) {
			signed, err := ours.DB.Sign(program)
			if err != nil {
				t.Fatal(err)
			}
			again, err := ours.DB.Sign(bytes.Clone(program))
			if err != nil || !bytes.Equal(signed, again) {
				t.Error("two signatures differ", err)
			}
			if kept, err := ours.DB.Sign(signed); err != nil || !bytes.Equal(kept, signed) {
				t.Error("what is signed is signed again", err)
			}
			if _, err := stranger.DB.Sign(signed); err == nil {
				t.Error("a second signature")
			}
			before, _ := uki.Authenticode(program)
			if after, err := uki.Authenticode(signed); err != nil || after != before {
				t.Errorf("digest %x, %v, want %x", after, err, before)
			}
			changed := bytes.Clone(signed)
			changed[len(program)-100] ^= 1

			file, bad := write(t, "signed.efi", signed), write(t, "changed.efi", changed)
			run(t, true, "sbverify", "--cert", right, file)
			run(t, false, "sbverify", "--cert", wrong, file)
			run(t, false, "sbverify", "--cert", right, bad)
			run(t, true, "osslsigncode", "verify", "-CAfile", right, file)
			run(t, false, "osslsigncode", "verify", "-CAfile", wrong, file)
			run(t, false, "osslsigncode", "verify", "-CAfile", right, bad)

			for what, c := range map[string]struct {
				file []byte
				by   *x509.Certificate
				want string
			}{
				"right":    {signed, ours.DB.Certificate, ""},
				"stranger": {signed, stranger.DB.Certificate, "and not by"},
				"changed":  {changed, ours.DB.Certificate, "the program was changed"},
				"unsigned": {program, ours.DB.Certificate, "not signed"},
			} {
				if err := SignedBy(c.file, c.by); c.want == "" && err != nil ||
					c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%s: %v, want %q", what, err, c.want)
				}
			}
		})
	}
}

// What other programs have signed is read: with the time of signing, and with the certificate of an authority.
func TestForeignSignatures(t *testing.T) {
	ours, stranger := keys(t)
	private, err := ours.DB.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	key, cert := write(t, "key", private), write(t, "cert", ours.DB.CertificatePEM())
	program := write(t, "os.efi", programs(t)["UKI"])
	for name, args := range map[string][]string{
		"sbsign":       {"--key", key, "--cert", cert, "--output", "OUT", program},
		"osslsigncode": {"sign", "-h", "sha256", "-certs", cert, "-key", key, "-in", program, "-out", "OUT"},
	} {
		out := filepath.Join(t.TempDir(), "out")
		for i := range args {
			if args[i] == "OUT" {
				args[i] = out
			}
		}
		run(t, true, name, args...)
		signed, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := SignedBy(signed, ours.DB.Certificate); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := SignedBy(signed, stranger.DB.Certificate); err == nil {
			t.Errorf("%s: signed by a stranger, too", name)
		}
	}
}

// A firmware starts what its db names, by a certificate, by that of an authority or by digest, and nothing of dbx.
func TestFirmware(t *testing.T) {
	ours, stranger := keys(t)
	program := programs(t)["UKI"]
	signed, err := ours.DB.Sign(program)
	if err != nil {
		t.Fatal(err)
	}
	sum, _ := uki.Authenticode(program)
	ca, leaf := authority(t)
	byLeaf, err := leaf.Sign(program)
	if err != nil {
		t.Fatal(err)
	}
	certificates := func(list ...*x509.Certificate) Database { return Database{Certificates: list} }
	tbs := sha256.Sum256(ours.DB.Certificate.RawTBSCertificate)
	for name, c := range map[string]struct {
		f       Firmware
		program []byte
		want    string // of the refusal
	}{
		"off":          {Firmware{}, program, ""},
		"signed":       {Firmware{Allowed: certificates(stranger.DB.Certificate, ours.DB.Certificate)}, signed, ""},
		"unsigned":     {Firmware{Allowed: certificates(ours.DB.Certificate)}, program, "not signed"},
		"stranger":     {Firmware{Allowed: certificates(stranger.DB.Certificate)}, signed, "none of the firm"},
		"nobody":       {Firmware{}, signed, "none of the firmware's db"},
		"by digest":    {Firmware{Allowed: Database{Programs: [][32]byte{sum}}}, program, ""},
		"by authority": {Firmware{Allowed: certificates(ca.Certificate)}, byLeaf, ""},
		"authority revoked": {Firmware{Allowed: certificates(ca.Certificate), Forbidden: certificates(ca.Certificate)},
			byLeaf, "dbx revokes"},
		"signer revoked": {Firmware{Allowed: certificates(ca.Certificate), Forbidden: certificates(leaf.Certificate)},
			byLeaf, "dbx revokes"},
		"revoked by its digest": {Firmware{Allowed: certificates(ours.DB.Certificate),
			Forbidden: Database{TBS: [][32]byte{tbs}}}, signed, "dbx revokes"},
		"program revoked": {Firmware{Allowed: certificates(ours.DB.Certificate),
			Forbidden: Database{Programs: [][32]byte{sum}}}, signed, "dbx revokes"},
		"no program": {Firmware{Allowed: certificates(ours.DB.Certificate)}, []byte("text"), "PE"},
	} {
		c.f.Enforcing = name != "off"
		if err := c.f.Starts(c.program); c.want == "" && err != nil ||
			c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// authority is a certificate of an authority and a signer whom it has certified, by openssl.
func authority(t *testing.T) (ca, leaf *Signer) {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	run(t, true, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=authority",
		"-keyout", in("ca.key"), "-out", in("ca"))
	run(t, true, "openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=leaf",
		"-keyout", in("leaf.key"), "-out", in("csr"))
	run(t, true, "openssl", "x509", "-req", "-in", in("csr"), "-CA", in("ca"), "-CAkey", in("ca.key"),
		"-CAcreateserial", "-out", in("leaf"))
	read := func(name string) *Signer {
		key, err := os.ReadFile(in(name + ".key"))
		if err != nil {
			t.Fatal(err)
		}
		cert, err := os.ReadFile(in(name))
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewSigner(key, cert)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	return read("ca"), read("leaf")
}

// The variables are read, missing ones too, and what cannot be read is an error.
func TestReadFirmware(t *testing.T) {
	ours, _ := keys(t)
	vars := map[string][]byte{
		"SecureBoot": {1}, "SetupMode": {0}, "db": Database{Certificates: []*x509.Certificate{ours.DB.Certificate},
			Programs: [][32]byte{{1}, {2}}, TBS: [][32]byte{{3}}}.Marshal(ours.Owner),
	}
	read := func(name, _ string) ([]byte, error) {
		if b, ok := vars[name]; ok {
			return b, nil
		}
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	f, err := ReadFirmware(read)
	if err != nil || !f.Enforcing || f.Setup || len(f.Allowed.Certificates) != 1 || len(f.Allowed.Programs) != 2 ||
		len(f.Allowed.TBS) != 1 || len(f.Forbidden.Certificates) != 0 {
		t.Errorf("%+v, %v", f, err)
	}
	vars["dbx"] = vars["db"][:50]
	if _, err := ReadFirmware(read); err == nil || !strings.Contains(err.Error(), "dbx") {
		t.Error(err)
	}
	vars = nil
	if f, err := ReadFirmware(read); err != nil || f.Enforcing {
		t.Error(f, err)
	}
}

// efitools make the same lists and the same signed variables of these keys.
func TestEnrolment(t *testing.T) {
	ours, _ := keys(t)
	files, err := ours.Enrolment(epoch, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		name    string
		of, by  *Signer
		options []string
	}{{"PK", ours.PK, ours.PK, nil}, {"KEK", ours.KEK, ours.PK, nil}, {"db", ours.DB, ours.KEK, nil}} {
		dir := t.TempDir()
		in := func(name string) string { return filepath.Join(dir, name) }
		private, err := v.by.KeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		owner := guidText(ours.Owner)
		run(t, true, "cert-to-efi-sig-list", "-g", owner, write(t, "of", v.of.CertificatePEM()), in("esl"))
		run(t, true, "sign-efi-sig-list", "-t", epoch.Format(time.DateTime), "-k", write(t, "key", private),
			"-c", write(t, "by", v.by.CertificatePEM()), v.name, in("esl"), in("auth"))
		want, err := os.ReadFile(in("auth"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(files[v.name], want) {
			t.Errorf("%s: efitools make another file:\n%s", v.name, cmp.Diff(want, files[v.name]))
		}
		parsed, err := ParseEnrolment(v.name, files[v.name])
		if err != nil {
			t.Fatal(err)
		}
		d, err := ParseDatabase(parsed.Content)
		if err != nil || len(d.Certificates) != 1 || !d.Certificates[0].Equal(v.of.Certificate) {
			t.Errorf("%s: %+v, %v", v.name, d, err)
		}
		if _, err := ParseEnrolment(v.name, files[v.name][:100]); err == nil {
			t.Errorf("%s: a part of it is taken", v.name)
		}
	}
}

func guidText(g GUID) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(g[:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}

// Keys that Secure Boot does not take are refused, with what to do.
func TestNewSignerRejects(t *testing.T) {
	ours, stranger := keys(t)
	key, err := ours.DB.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	cert := ours.DB.CertificatePEM()
	if s, err := NewSigner(key, ours.DB.Certificate.Raw); err != nil || s == nil {
		t.Error("a certificate in DER:", err)
	}
	for name, c := range map[string]struct {
		key, cert []byte
		want      string
	}{
		"no key":         {nil, cert, "not PEM"},
		"another's":      {key, stranger.DB.CertificatePEM(), "not the one of the certificate"},
		"no certificate": {key, []byte("x"), "cannot be read"},
		"key twice":      {key, key, "not a certificate"},
		"two":            {key, append(bytes.Clone(cert), cert...), "something is behind"},
	} {
		if _, err := NewSigner(c.key, c.cert); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func FuzzDatabase(f *testing.F) {
	f.Add(Database{Programs: [][32]byte{{1}}, TBS: [][32]byte{{2}}}.Marshal(GUID{1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDatabase(b)
		if err != nil {
			return
		}
		again, err := ParseDatabase(d.Marshal(GUID{}))
		if err != nil || len(again.Certificates) != len(d.Certificates) ||
			cmp.Diff(d.Programs, again.Programs) != "" || cmp.Diff(d.TBS, again.TBS) != "" {
			t.Errorf("%v: %v, then %v", err, d, again)
		}
	})
}

// A signature that somebody has made up is read without harm. One of a key is in testdata.
func FuzzSignature(f *testing.F) {
	f.Add([]byte{0x30, 0x03, 0x02, 0x01, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := verify(b, [32]byte{}); err == nil {
			t.Error("it is a signature of nothing")
		}
	})
}
