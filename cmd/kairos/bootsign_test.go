package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	testregistry "github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// apart are the labels of an image whose boot files are signed apart from the build.
var apart = map[string]string{layout.ImageLabelBootSignatures: layout.BootSignaturesInRelease}

// bootKey makes a key of Secure Boot in a folder, with a certificate that is valid for a time.
func bootKey(t *testing.T, dir, name string, from, until time.Time) (file string, certificate []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: until,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, name+".key")
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// pushApart pushes an image with a certificate, which another program than ours has built without its key.
func pushApart(t *testing.T, ref string, certificate, public []byte, labels map[string]string) {
	t.Helper()
	files := map[string][]byte{
		layout.ImageSecureBootCert: certificate, layout.ImageTrustDir + "/release.pub": public,
	}
	for name, size := range map[string]int{"boot.img": 512, "core.img": 1 << 10} {
		files[layout.ImageGrubDir+"/"+name] = make([]byte, size)
	}
	layers := bootableWith(t, files, apart)
	stock{
		manifest: ocispec.MediaTypeImageManifest, config: ocispec.MediaTypeImageConfig,
		layer: gzippedIn(ocispec.MediaTypeImageLayerGzip, 1, 0), labels: labels,
	}.push(t, ref, layers)
}

// Boot files of an image that anybody has built without a key are signed later, here or elsewhere, and the release
// beside the image has the signatures, in a mirror, too: the same bytes whoever signs.
func TestReleaseSignsBootFiles(t *testing.T) {
	srv := httptest.NewServer(testregistry.New(
		testregistry.Logger(log.New(io.Discard, "", 0)), testregistry.WithReferrersSupport(true),
	))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("XDG_CACHE_HOME", dir)
	t.Setenv("HOME", dir)
	run := func(code int, sentence string, args ...string) string {
		t.Helper()
		var out, err bytes.Buffer
		got := program(args, streams{strings.NewReader(""), &out, &err})
		if got != code || !strings.Contains(out.String()+err.String(), sentence) {
			t.Fatalf("kairos %s: exit code %d, want %d and %q:\n%s%s", args, got, code, sentence, &out, &err)
		}
		return out.String()
	}
	cache := filepath.Join(dir, "layers")
	now := time.Now()
	key, certificate := bootKey(t, dir, "ours", now.Add(-time.Hour), now.Add(time.Hour))
	stranger, _ := bootKey(t, dir, "stranger", now.Add(-time.Hour), now.Add(time.Hour))
	old, expired := bootKey(t, dir, "old", now.Add(-2*time.Hour), now.Add(-time.Hour))
	on := func(args ...string) []string { return append(args, "--platform", "linux/amd64") }
	publish := func(args ...string) []string { return append(on("release", "--cache", cache), args...) }
	signKey := filepath.Join(dir, "release.key")
	run(0, "", "keys", "new", signKey)
	public, err := os.ReadFile(signKey + ".pub")
	if err != nil {
		t.Fatal(err)
	}

	ref, again, late := host+"/os:v1", host+"/other:v1", host+"/late:v1"
	for _, r := range []string{ref, again, late} {
		pushApart(t, r, certificate, public, apart)
	}
	run(0, "Release", publish("--sign-key", signKey, ref)...)
	raw := filepath.Join(dir, "os.raw")
	export := func(ref string) []string {
		return on("export", "--cache", cache, "-o", "type=raw,dest="+raw, ref, "--insecure")
	}
	run(1, "kairos.efi: it is not signed for Secure Boot: sign it with `kairos release --uki-key", export(ref)...)
	verify := on("verify", "--key", signKey+".pub", ref)
	run(1, "boot files of", verify...)

	run(1, "the private key is not the one of the certificate", publish("--uki-key", stranger, ref)...)
	both := publish("--uki-key", key, "--sign-key", signKey, ref)
	run(0, "/boot/kairos.efi is signed by the key of \"ours\"", both...)
	run(0, "/boot/kairos.efi signed by the key of \"ours\"", verify...)
	run(0, "systemd-boot.efi signed by", verify...)
	run(0, "", export(ref)...)
	run(0, "Release", on("verify", "--key", signKey+".pub", "disk:"+raw)...)

	record := func(ref string) []byte {
		t.Helper()
		repository, img, err := inRegistry(t.Context(), ref, source.Options{Platform: "linux/amd64"})
		if err != nil {
			t.Fatal(err)
		}
		b, err := release.BootSignatures(t.Context(), repository, layout.Digest(img.Manifest.Digest))
		if err != nil || b == nil {
			t.Fatalf("%s: %d bytes, %v", ref, len(b), err)
		}
		return b
	}
	run(0, "is signed", publish("--uki-key", key, again)...)
	if !bytes.Equal(record(ref), record(again)) {
		t.Error("the same key has signed the same files with other bytes")
	}

	// Elsewhere, by a program that knows nothing of us.
	run(0, "Release", publish("--sign-key", signKey, late)...)
	text, answer := filepath.Join(dir, "text"), filepath.Join(dir, "answer")
	elsewhere := func(key, file string) {
		t.Helper()
		out := run(0, "", on("sign", "--detached", "--boot-file", file, late)...)
		if err := os.WriteFile(text, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := exec.Command("openssl", "dgst", "-sha256", "-sign", key, "-out", answer, text).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl: %v: %s", err, b)
		}
	}
	take := func(file string) []string {
		return on("sign", "--detached", "--boot-file", file, "--signature", answer, late)
	}
	elsewhere(stranger, "uki")
	run(1, "it is wrong: sign what `kairos sign --detached --boot-file uki", take("uki")...)
	elsewhere(key, "uki")
	run(1, "it is wrong", take("systemd-boot")...) // of another file
	run(0, "The uki of release", take("uki")...)
	run(1, "systemd-boot.efi: it is not signed", export(late)...)
	elsewhere(key, "systemd-boot")
	run(0, "The systemd-boot of release", take("systemd-boot")...)
	if !bytes.Equal(record(ref), record(late)) {
		t.Error("signed elsewhere, the signatures have other bytes")
	}
	run(0, "", export(late)...)

	// A mirror has them.
	mirror := host + "/mirror:v1"
	run(0, "release artifacts", on("release", "--copy", ref, mirror)...)
	if !bytes.Equal(record(ref), record(mirror)) {
		t.Error("a mirror has other signatures")
	}
	run(0, "/boot/kairos.efi signed by", on("verify", "--key", signKey+".pub", mirror)...)

	// What cannot be signed.
	for name, c := range map[string]struct {
		certificate []byte
		labels      map[string]string
		key, want   string
	}{
		"expired":    {expired, apart, old, "was valid until"},
		"in a build": {certificate, nil, key, "build the image again, with the key"},
		"a label":    {certificate, map[string]string{layout.ImageLabelBootSignatures: "x"}, key, "want release"},
	} {
		r := host + "/" + strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "/", "") + ":v1"
		pushApart(t, r, c.certificate, public, c.labels)
		run(1, c.want, publish("--uki-key", c.key, r)...)
	}
	for _, bad := range [][]string{
		publish("--uki-key", "-", "--sign-key", "-", ref),
		publish("--uki-key", filepath.Join(dir, "none"), ref),
		on("release", "--copy", "--uki-key", key, ref, mirror),
		on("sign", "--boot-file", "uki", "--key", signKey, ref),
		on("sign", "--detached", "--boot-file", "grub", ref),
	} {
		run(2, "kairos", bad...)
	}
}

// A token's RSA key signs boot files: what it gives is compared with the certificate.
func TestTokenSignsBootFiles(t *testing.T) {
	dir := t.TempDir()
	file, certificate := bootKey(t, dir, "ours", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	softToken(t)
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v: %s (make test installs softhsm2 and opensc)", name, args, err, out)
		}
	}
	run("softhsm2-util", "--import", file, "--token", "a token", "--pin", tokenPIN, "--id", "03", "--label", "db")
	run("pkcs11-tool", "--module", softHSM, "--token-label", "a token", "--login", "--pin", tokenPIN,
		"--keypairgen", "--key-type", "rsa:2048", "--id", "04", "--label", "other")
	t.Setenv(pkcs11PIN, tokenPIN)
	cert, err := secureboot.ParseCertificate(certificate)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"03": "", "04": "the token's key is not the one of the certificate"} {
		k, err := parseToken("pkcs11:token=a%20token;id=%" + id + "?module-path=" + softHSM)
		if err != nil {
			t.Fatal(err)
		}
		digest := bytes.Repeat([]byte{7}, 32)
		b, err := rsaToken{k, cert}.Sign(nil, digest, crypto.SHA256)
		if want == "" {
			if err != nil || rsa.VerifyPKCS1v15(cert.PublicKey.(*rsa.PublicKey), crypto.SHA256, digest, b) != nil {
				t.Errorf("%s: %v", id, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", id, err, want)
		}
	}
}
