package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/uki/pcr"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// A firmware's keys are made into a new folder: private ones for their owner alone, and what enrolls them, with other
// certificates where somebody wants them.
func TestKeysOfSecureBoot(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) error {
		c := newKeysCommand(streams{strings.NewReader(""), io.Discard, io.Discard})
		c.SetArgs(args)
		c.SilenceUsage, c.SilenceErrors = true, true
		return c.ExecuteContext(t.Context())
	}
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	if err := run("new", "--secure-boot", "--name", "Example", first); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, name := range []string{"PK", "KEK", "db"} {
		info, err := os.Stat(filepath.Join(first, name+".key"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s.key: %v, %v", name, info, err)
		}
		base := filepath.Join(first, name)
		s, err := secureboot.NewSigner(read(base+".key"), read(base+".crt"))
		if err != nil || s.Certificate.Subject.CommonName != "Example "+name {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	pcrKey := filepath.Join(first, "pcr.key")
	if info, err := os.Stat(pcrKey); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("pcr.key: %v, %v", info, err)
	}
	private, err := secureboot.ParseKey(read(pcrKey))
	if err != nil {
		t.Fatal(err)
	}
	public, err := pcr.ParsePublic(read(filepath.Join(first, "pcr.pub")))
	if err != nil || !public.Equal(&private.PublicKey) {
		t.Errorf("pcr.pub: %v, %v", public, err)
	}
	before := read(filepath.Join(first, "db.key"))
	crt := filepath.Join(first, "db.crt")
	if err := run("new", "--secure-boot", "--db-certificate", crt, second); err != nil {
		t.Fatal(err)
	}
	for of, want := range map[string]int{first: 1, second: 2} {
		vars, err := enrolled(of)
		if err != nil || len(vars) != 3 {
			t.Fatal(vars, err)
		}
		db, err := secureboot.ParseDatabase(vars[2].Data)
		if err != nil || len(db.Certificates) != want || vars[2].Name != "db" {
			t.Errorf("%s: db has %d certificates, %v", of, len(db.Certificates), err)
		}
	}
	x, none, noCertificate := filepath.Join(dir, "x"), filepath.Join(dir, "none"), filepath.Join(first, "PK.key")
	for want, args := range map[string][]string{
		"file exists":            {"--secure-boot", first},
		"RSA":                    {"--secure-boot", "--type", "ed25519", x},
		"are for --secure-boot":  {"--name", "x", x},
		"not a certificate":      {"--secure-boot", "--kek-certificate", noCertificate, x},
		"no such file or direct": {"--secure-boot", "--db-certificate", none, x},
		"needs one argument":     {"--secure-boot"},
	} {
		if err := run(append([]string{"new"}, args...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
	after := read(filepath.Join(first, "db.key"))
	if _, err := os.Stat(x); err == nil || !bytes.Equal(before, after) {
		t.Error("a command that failed has changed something")
	}
	state := filepath.Join(dir, "state")
	if err := os.MkdirAll(state, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, "vars.fd"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	disk := imageFile(t, "disk.img", 1<<16, 0, "")
	for want, args := range map[string][]string{
		"--keys is for --secure-boot": {"--keys", first, disk},
		"PK.auth: no such file":       {"--secure-boot", "--keys", dir, disk},
		"of a machine already":        {"--secure-boot", "--keys", first, "--state", state, disk},
		"[bios secure-boot]":          {"--secure-boot", "--bios", disk},
	} {
		err := runArgs(t.Context(), io.Discard, args...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}
