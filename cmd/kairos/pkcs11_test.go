package main

import (
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	testregistry "github.com/google/go-containerregistry/pkg/registry"
)

const (
	softHSM  = "/usr/lib/softhsm/libsofthsm2.so"
	tokenPIN = "4711-pin"
)

// softToken makes a token in a folder, with a key of each kind, by programs that we did not write.
func softToken(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v: %s (make test installs softhsm2 and opensc)", name, args, err, out)
		}
	}
	run("softhsm2-util", "--init-token", "--free", "--label", "a token", "--pin", tokenPIN, "--so-pin", "1234567")
	for id, kind := range map[string]string{"01": "prime256v1", "02": "edwards25519"} {
		run("pkcs11-tool", "--module", softHSM, "--token-label", "a token", "--login", "--pin", tokenPIN,
			"--keypairgen", "--key-type", "EC:"+kind, "--id", id, "--label", "key "+id)
	}
}

// A key on a token signs, and the signature is one like any other's.
func TestSignByToken(t *testing.T) {
	softToken(t)
	srv := httptest.NewServer(testregistry.New(
		testregistry.Logger(log.New(io.Discard, "", 0)), testregistry.WithReferrersSupport(true),
	))
	defer srv.Close()
	ref := published(t, strings.TrimPrefix(srv.URL, "http://"), "v1")
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	pin := filepath.Join(dir, "pin")
	if err := os.WriteFile(pin, []byte(tokenPIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(code int, sentence string, args ...string) string {
		t.Helper()
		var out, err bytes.Buffer
		got := program(args, streams{strings.NewReader(""), &out, &err})
		if got != code || !strings.Contains(out.String()+err.String(), sentence) {
			t.Errorf("kairos %s: exit code %d, want %d and %q:\n%s%s", args, got, code, sentence, &out, &err)
		}
		if strings.Contains(out.String()+err.String(), tokenPIN) {
			t.Errorf("kairos %s: it prints the PIN:\n%s%s", args, &out, &err)
		}
		return out.String()
	}
	const where = "?module-path=" + softHSM
	for uri, algorithm := range map[string]string{
		"pkcs11:token=a%20token;id=%01;type=private" + where:    "ecdsa-p256",
		"pkcs11:token=a%20token;id=%02;object=key%2002" + where: "ed25519",
	} {
		public := filepath.Join(dir, algorithm)
		text := run(0, algorithm+" sha256:", "keys", "show", uri)
		_, text, _ = strings.Cut(text, "\n")
		if err := os.WriteFile(public, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		on := []string{"--platform", "linux/amd64", ref}
		run(1, "it has not signed", append([]string{"verify", "--key", public}, on...)...)
		run(1, "pkcs11-tool", append([]string{"sign", "--key", uri}, on...)...) // without its PIN
		run(0, "is signed by "+algorithm, append([]string{"sign", "--key", uri + "&pin-source=file:" + pin}, on...)...)
		run(0, "signed by "+algorithm, append([]string{"verify", "--key", public}, on...)...)
	}
	run(1, "object not found", "keys", "show", "pkcs11:token=a%20token;id=%09"+where)
	for _, bad := range []string{
		"pkcs11:token=x;id=%01",
		"pkcs11:token=x;id=%01?module-path=lib.so",
		"pkcs11:id=%01" + where,
		"pkcs11:token=x" + where,
		"pkcs11:token=x;object=y" + where,
		"pkcs11:token=x;id=%0" + where,
		"pkcs11:token=x;id=%01;slot-id=1" + where,
		"pkcs11:token=x;id=%01;type=cert" + where,
		"pkcs11:token=x;id=%01" + where + "&pin-value=" + tokenPIN,
		"pkcs11:token=x;id=%01" + where + "&pin-source=file:" + filepath.Join(dir, "none"),
	} {
		run(2, "kairos", "keys", "show", bad)
	}
}
