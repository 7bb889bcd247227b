package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/uki"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// What is added to db and dbx is signed by the KEK of a folder, and a file is never overwritten.
func TestKeysUpdate(t *testing.T) {
	dir := t.TempDir()
	var said bytes.Buffer
	run := func(args ...string) error {
		said.Reset()
		c := newKeysCommand(streams{strings.NewReader(""), &said, &said})
		c.SetArgs(args)
		c.SilenceUsage, c.SilenceErrors = true, true
		return c.ExecuteContext(t.Context())
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"ours", "new"} {
		if err := run("new", "--secure-boot", "--name", name, in(name)); err != nil {
			t.Fatal(err)
		}
	}
	program := boottest.Program("x")
	if err := os.WriteFile(in("x.efi"), program, 0o644); err != nil {
		t.Fatal(err)
	}
	cert := filepath.Join(in("new"), "db.crt")
	err := run("update", "--keys", in("ours"), "--certificate", cert, "--program", in("x.efi"), "dbx", in("x.auth"))
	if err != nil || !strings.Contains(said.String(), "efi-updatevar -a -f x.auth dbx") {
		t.Fatal(said.String(), err)
	}
	b, err := os.ReadFile(in("x.auth"))
	if err != nil {
		t.Fatal(err)
	}
	u, err := secureboot.ParseUpdate(b)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := uki.Authenticode(program)
	if err != nil || u.Name != "dbx" || !u.Appends || u.Signer.Subject.CommonName != "ours KEK" ||
		len(u.Content.Certificates) != 1 || u.Content.Certificates[0].Subject.CommonName != "new db" ||
		len(u.Content.Programs) != 1 || u.Content.Programs[0] != sum {
		t.Errorf("%+v, %v", u, err)
	}
	for want, args := range map[string][]string{
		"file exists":            {"--keys", in("ours"), "--certificate", cert, "db", in("x.auth")},
		"nothing is to be added": {"--keys", in("ours"), "db", in("y.auth")},
		"needs two arguments":    {"--keys", in("ours"), "--certificate", cert, "PK", in("y.auth")},
		"no such file":           {"--keys", dir, "--certificate", cert, "db", in("y.auth")},
		"not a certificate":      {"--keys", in("ours"), "--certificate", in("ours/db.key"), "db", in("y.auth")},
		"x.auth: ":               {"--keys", in("ours"), "--program", in("x.auth"), "db", in("y.auth")},
	} {
		if err := run(append([]string{"update"}, args...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
	if _, err := os.Stat(in("y.auth")); err == nil {
		t.Error("a command that failed has written something")
	}
}
