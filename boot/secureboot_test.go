package boot

import (
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// owner has keys and what enrolls them; making them takes a while.
type owner struct {
	*secureboot.Keys
	key       []byte
	enrolment map[string][]byte
}

var owners = sync.OnceValues(func() (list [2]owner, err error) {
	now := time.Unix(1767225600, 0)
	for i, name := range []string{"ours", "stranger"} {
		o := &list[i]
		if o.Keys, err = secureboot.NewKeys(name, now); err != nil {
			return list, err
		}
		if o.key, err = o.DB.KeyPEM(); err != nil {
			return list, err
		}
		if o.enrolment, err = o.Enrolment(now, nil, nil); err != nil {
			return list, err
		}
	}
	return list, nil
})

func twoOwners(t *testing.T) (ours, stranger owner) {
	t.Helper()
	list, err := owners()
	if err != nil {
		t.Fatal(err)
	}
	return list[0], list[1]
}

// signedTree is an image's tree with a certificate.
func signedTree(o owner) fstest.MapFS {
	tree := boottest.Tree("6.12.1")
	tree[layout.ImageSecureBootCert] = file(string(o.DB.CertificatePEM()))
	tree[layout.ImageSystemdBoot] = file(string(boottest.Program("systemd-boot")))
	return tree
}

// checkImage checks an image's boot loader, and a UKI.
func checkImage(root fs.FS, s *SecureBoot, program []byte) error {
	loader, err := s.ReadLoader(root)
	if err != nil {
		return err
	}
	return s.CheckAll(map[string][]byte{layout.ImageUKI: program, layout.ImageSystemdBoot: loader})
}

// Boot files are signed in the build, the same ones with the same bytes; and nobody makes others without the key.
func TestSignedBootFiles(t *testing.T) {
	ours, stranger := twoOwners(t)
	tree := signedTree(ours)
	if _, err := Make(tree, Options{}); !errors.Is(err, ErrNoKey) {
		t.Errorf("without the key: %v", err)
	}
	one := install(t, tree, Options{Key: ours.key})
	if err := secureboot.SignedBy(one.UKI, ours.DB.Certificate); err != nil {
		t.Error(err)
	}
	plain, err := Make(boottest.Tree("6.12.1"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := uki.Authenticode(one.UKI); err != nil || uki.Signed(plain.UKI) {
		t.Error(err)
	} else if b, _ := uki.Authenticode(plain.UKI); a != b {
		t.Error("a signed UKI has another digest than the unsigned one")
	}
	if again, err := Make(signedTree(ours), Options{Key: ours.key}); err != nil || !bytes.Equal(again.UKI, one.UKI) {
		t.Error("the same key has signed other bytes", err)
	}
	if fits, why, err := Check(tree, Options{}); !fits || err != nil {
		t.Error(why, err)
	}
	// What is the same is taken as it is, without the key.
	if kept, err := Make(tree, Options{}); err != nil || !bytes.Equal(kept.UKI, one.UKI) {
		t.Error("the signed UKI was not kept", err)
	}
	s, err := ReadSecureBoot(tree, Options{})
	if err != nil {
		t.Fatal(err)
	}
	loader := tree[layout.ImageSystemdBoot].Data
	if _, err := s.Sign(tree, layout.ImageSystemdBoot, loader, nil); !errors.Is(err, ErrNoKey) {
		t.Errorf("an unsigned loader: %v", err)
	}
	signed, err := s.Sign(tree, layout.ImageSystemdBoot, loader, ours.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkImage(tree, s, one.UKI); err == nil || !strings.Contains(err.Error(), "systemd-boot") {
		t.Errorf("an unsigned loader: %v", err)
	}
	tree[layout.ImageSystemdBoot] = file(string(signed))
	if err := checkImage(tree, s, one.UKI); err != nil {
		t.Error(err)
	}
	if kept, err := s.Sign(tree, layout.ImageSystemdBoot, loader, nil); err != nil || !bytes.Equal(kept, signed) {
		t.Error("the signed loader was not kept", err)
	}
	if err := checkImage(tree, s, plain.UKI); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("an unsigned UKI: %v", err)
	}

	for name, c := range map[string]struct {
		tree fstest.MapFS
		o    Options
		want string
	}{
		"another's key":  {signedTree(ours), Options{Key: stranger.key}, "not the one of the certificate"},
		"no certificate": {boottest.Tree("6.12.1"), Options{Key: ours.key}, "copy it to"},
		"no key":         {signedTree(ours), Options{Key: []byte("text")}, "not PEM"},
	} {
		_, err := Make(c.tree, c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), string(c.o.Key)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}

	// Another kernel, another word, another certificate.
	if _, err := Make(tree, Options{Cmdline: "quiet"}); !errors.Is(err, ErrNoKey) {
		t.Error("another word", err)
	}
	tree[layout.ImageSecureBootCert] = file(string(stranger.DB.CertificatePEM()))
	if fits, why, err := Check(tree, Options{}); fits || err != nil || !strings.Contains(why, "certificate") {
		t.Error(fits, why, err)
	}
	tree = signedTree(ours)
	install(t, tree, Options{Key: ours.key})
	delete(tree, "boot/vmlinuz-6.12.1")
	boottest.AddKernel(tree, "6.12.9")
	if fits, _, err := Check(tree, Options{}); fits || err != nil {
		t.Error("another kernel fits", err)
	}
	if _, err := Make(tree, Options{}); !errors.Is(err, ErrNoKey) {
		t.Error("another kernel", err)
	}
}

// What is in the folder and would not do what somebody believes is an error that names it.
func TestBrokenSecureBoot(t *testing.T) {
	ours, stranger := twoOwners(t)
	auth := func(o owner, names ...string) map[string]string {
		m := map[string]string{"db.crt": string(ours.DB.CertificatePEM())}
		for _, n := range names {
			m[n+".auth"] = string(o.enrolment[n])
		}
		return m
	}
	with := func(m map[string]string, name, data string) map[string]string { m[name] = data; return m }
	for name, c := range map[string]struct {
		files map[string]string
		label string
		want  string // "" for none
	}{
		"all":              {auth(ours, "PK", "KEK", "db"), "", ""},
		"none":             {map[string]string{}, "", ""},
		"by force":         {auth(ours, "PK", "KEK", "db"), layout.EnrollForce, ""},
		"certificate":      {auth(ours), "", ""},
		"private key":      {with(auth(ours), "db.key", string(ours.key)), "", "db.key: it is neither"},
		"no certificate":   {map[string]string{"PK.auth": string(ours.enrolment["PK"])}, "", "db.crt is missing"},
		"part of them":     {auth(ours, "PK", "db"), "", "KEK.auth is missing"},
		"a stranger's":     {auth(stranger, "PK", "KEK", "db"), "", "does not have the certificate"},
		"no variable":      {with(auth(ours), "PK.auth", "text"), "", "not a signed variable"},
		"another word":     {auth(ours), "always", "want if-safe, manual or force"},
		"key in its place": {map[string]string{"db.crt": string(ours.key)}, "", "not a certificate"},
	} {
		tree := boottest.Tree("6.12.1")
		for name, data := range c.files {
			tree[layout.ImageSecureBootDir+"/"+name] = file(data)
		}
		s, err := ReadSecureBoot(tree, Options{Enroll: c.label})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err == nil && (s == nil) != (name == "none") {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
