//go:build vm

package doors

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"io/fs"
	"log"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// A sealed image is signed while it is built, by both doors to a builder, and the keys stay where they are, those of
// releases, of Secure Boot and of what a TPM measures: they are in nothing that a build leaves behind. No step gets
// that of releases.
func TestSealedBuild(t *testing.T) {
	if os.Getenv("KAIROS_TEST_ALL") == "" {
		t.Skip("builder.TestBuilderSigns is the short one: seven builds are left to `make test-all`")
	}
	began := time.Now().Add(-time.Second)
	dir := t.TempDir()
	pushed, layers := filepath.Join(dir, "registry"), filepath.Join(dir, "cache")
	if err := os.Mkdir(pushed, 0o700); err != nil {
		t.Fatal(err)
	}
	var requests bytes.Buffer
	srv := httptest.NewServer(registry.New(
		registry.WithReferrersSupport(true), registry.Logger(log.New(&requests, "", 0)),
		registry.WithBlobHandler(registry.NewDiskBlobHandler(pushed)),
	))
	t.Cleanup(srv.Close)
	host := "localhost:" + srv.URL[strings.LastIndex(srv.URL, ":")+1:]
	key := filepath.Join(dir, "release.key")
	run(t, kairosBin, "keys", "new", key)
	boot := filepath.Join(dir, "boot")
	run(t, kairosBin, "keys", "new", "--secure-boot", "--name", "Test", boot)
	secrets := map[string]string{
		"kairos-release-key": key,
		"secureboot-key":     filepath.Join(boot, "db.key"), "pcr-key": filepath.Join(boot, "pcr.key"),
	}
	var bootSecrets []string
	for _, id := range []string{"secureboot-key", "pcr-key"} {
		bootSecrets = append(bootSecrets, "--secret", "id="+id+",src="+secrets[id])
	}
	context_ := filepath.Join(dir, "context")
	if err := writeDockerfile(context_, "kairos"); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(context_, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plain, err := os.ReadFile(filepath.Join(context_, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{
		"release.pub": key + ".pub", "db.crt": filepath.Join(boot, "db.crt"),
		"pcr.pub": filepath.Join(boot, "pcr.pub"),
	} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(name, string(b))
	}
	sealed := string(plain) + "COPY release.pub /usr/lib/kairos/trust.d/\n" +
		"COPY db.crt /usr/lib/kairos/secureboot/\nCOPY pcr.pub /usr/lib/kairos/\n"
	write("Dockerfile", sealed)
	var said []string
	build := func(args ...string) error {
		all := append([]string{"build", "--progress", "plain", "--root", filepath.Join(toolDir, "state"),
			"--build-context", baseContext + baseLayout, "--cache-to", "type=local,dest=" + layers}, bootSecrets...)
		all = append(all, args...)
		out, err := tryRun(command(t.Context(), kairosBin, append(all, context_)...))
		said = append(said, out)
		return err
	}
	iso := func(name string) string { return "type=iso,dest=" + filepath.Join(dir, name) }

	err = build("--output", iso("unsigned.iso"))
	if err == nil || !strings.Contains(err.Error(), "it is not signed") {
		t.Errorf("without a key: %v", err)
	}
	for _, name := range []string{"a.iso", "b.iso"} {
		err := build("--sign-key", key, "--output", iso(name), "--tag", host+"/flag:v1", "--push", "--release",
			"--provenance", "mode=max", "--metadata-file", filepath.Join(dir, "metadata"))
		if err != nil {
			t.Fatal(err)
		}
	}
	a, b := filepath.Join(dir, "a.iso"), filepath.Join(dir, "b.iso")
	if out, err := tryRun(command(t.Context(), "cmp", a, b)); err != nil {
		t.Errorf("the same key and image, and other bytes: %s", out)
	}
	verify := func(ref string) {
		t.Helper()
		said = append(said, run(t, kairosBin, "verify", "--key", key+".pub", ref))
	}
	verify("iso:" + a)
	verify(host + "/flag:v1")

	// A daemon, which is told to say all, and a client that has the key as a secret.
	socket := filepath.Join(dir, "builder.sock")
	daemon := command(context.Background(), kairosBin, "--debug", "--root", filepath.Join(dir, "daemon"),
		"--addr", "unix://"+socket, "--oci-worker-net", "host")
	daemon.Args[0] = "buildkitd"
	waitFor(t, socket, start(t, daemon))
	run(t, tool(t, "buildx"), "create", "--name", "sealed", "--driver", "remote", "unix://"+socket)
	secret := append(bootSecrets, "--secret", "id=kairos-release-key,src="+key, "--provenance", "mode=max")
	said = append(said, buildx(t, "sealed", context_, append(secret, "--output",
		"type=image,name="+host+"/buildx:v1,push=true,release=true")...))
	said = append(said, buildx(t, "sealed", context_, append(secret, "--output",
		"type=tar,format=raw,dest="+filepath.Join(dir, "os.raw"))...))
	said = append(said, run(t, tool(t, "buildx"), "history", "inspect", "--builder", "sealed", "--format", "json"))
	verify(host + "/buildx:v1")
	verify("disk:" + filepath.Join(dir, "os.raw"))

	// A step that asks for the key.
	for _, step := range []string{
		"RUN --mount=type=secret,id=kairos-release-key cat /run/secrets/kairos-release-key > /key || true\n",
		"RUN --mount=type=secret,id=kairos-release-key,env=KEY echo $KEY > /key || true\n",
	} {
		write("Dockerfile", sealed+step)
		err := build("--secret", "id=kairos-release-key,src="+key, "--output", iso("c.iso"))
		if err == nil || !strings.Contains(err.Error(), "no step gets it") {
			t.Errorf("%s: %v", step, err)
		}
	}

	forms := map[string][]byte{}
	for id, file := range secrets {
		secretForms(t, id, file, forms)
	}
	said = append(said, requests.String())
	for form, s := range forms {
		if strings.Contains(strings.Join(said, "\n"), string(s)) {
			t.Errorf("what was printed has the %s", form)
		}
	}
	logs, err := filepath.Glob(filepath.Join(workDir, t.Name()+"*.log"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("the daemon's log: %v", err)
	}
	own := slices.Collect(maps.Values(secrets))
	own = append(own, filepath.Join(boot, "PK.key"), filepath.Join(boot, "KEK.key"))
	searched := 0
	for _, root := range append(logs, dir, filepath.Join(toolDir, "state")) {
		searched += searchFiles(t, root, own, began, forms)
	}
	if searched < 1000 {
		t.Errorf("%d files were searched: the build's files are somewhere else", searched)
	}
	// The search finds what is there.
	for id, file := range secrets {
		b, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(b, forms[id+" as PEM"]) {
			t.Errorf("the search does not know the %s: %v", id, err)
		}
	}
}

// secretForms adds the ways in which a private key may be written.
func secretForms(t *testing.T, id, file string, forms map[string][]byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	// The number that makes it private, and a line of the file that has a part of that.
	var secret []byte
	line := base64.StdEncoding.EncodeToString(block.Bytes)
	switch key := parsed.(type) {
	case ed25519.PrivateKey:
		secret = key.Seed()
	case *rsa.PrivateKey:
		secret = key.Primes[0].Bytes()
		at := bytes.Index(block.Bytes, secret) / 48 * 64 // 48 bytes are a line of 64 digits
		line = line[at+64:][:64]
	}
	maps.Copy(forms, map[string][]byte{
		id + " as PEM":    []byte(line),
		id + " as base64": []byte(base64.RawStdEncoding.EncodeToString(secret)),
		id + " as hex":    []byte(hex.EncodeToString(secret)),
		id + " as bytes":  secret,
	})
}

// searchFiles looks for keys in each file that has changed since, but for their own, and says how many these were.
func searchFiles(t *testing.T, root string, own []string, since time.Time, forms map[string][]byte) (n int) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || slices.Contains(own, name) {
			return nil //nolint:nilerr // a process's files come and go
		}
		info, err := e.Info()
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		if c := info.Sys().(*syscall.Stat_t).Ctim; time.Unix(c.Unix()).Before(since) {
			return nil
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		n++
		for form, s := range forms {
			if bytes.Contains(b, s) {
				t.Errorf("%s has the %s", name, form)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return n
}
