package main

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	testregistry "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/verity"
)

// published puts an image with a release beside it into a registry. Nothing boots: only lists are signed.
func published(t *testing.T, host, tag string) string {
	t.Helper()
	ref := host + "/os:" + tag
	img, err := random.Image(64, 2)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	img = mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON)
	to, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, img); err != nil {
		t.Fatal(err)
	}
	repository, read, err := inRegistry(t.Context(), ref, source.Options{Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	r := layout.Release{
		Version: tag, Config: read.ConfigDigest, Manifest: layout.Digest(read.Manifest.Digest), Arch: "amd64",
		Epoch: 3,
	}
	var blobs []io.ReaderAt
	for _, l := range read.Layers {
		r.Layers = append(r.Layers, layout.Layer{DiffID: l.DiffID, Size: 4096, RootHash: l.DiffID.Hex()})
		blobs = append(blobs, bytes.NewReader(make([]byte, verity.TotalSize(4096))))
	}
	if _, err := release.Push(t.Context(), repository, read.Manifest, r, blobs, release.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	return ref
}

// Keys sign the release in a registry, here and far away, and a release counts as signed by these keys, as many of
// them, and no others.
func TestSign(t *testing.T) {
	srv := httptest.NewServer(testregistry.New(
		testregistry.Logger(log.New(io.Discard, "", 0)), testregistry.WithReferrersSupport(true),
	))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	ref, other := published(t, host, "v1"), published(t, host, "v2")
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	run := func(args ...string) (string, string, int) {
		var out, err bytes.Buffer
		code := program(args, streams{strings.NewReader(""), &out, &err})
		return out.String(), err.String(), code
	}
	want := func(code int, sentence string, args ...string) string {
		t.Helper()
		out, err, got := run(args...)
		if got != code || !strings.Contains(out+err, sentence) {
			t.Errorf("kairos %s: exit code %d, want %d and %q:\n%s%s", args, got, code, sentence, out, err)
		}
		return out
	}
	on := func(args ...string) []string { return append(args, "--platform", "linux/amd64") }
	want(0, "ed25519 sha256:", "keys", "new", a)
	want(0, "ecdsa-p256 sha256:", "keys", "new", "--type", "ecdsa-p256", b)
	want(0, "ed25519 sha256:", "keys", "new", c)
	want(2, "exists", "keys", "new", a)
	if info, err := os.Stat(a); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	private, public := want(0, "PUBLIC", "keys", "show", a), want(0, "PUBLIC", "keys", "show", a+".pub")
	if private != public {
		t.Errorf("%s, and %s", private, public)
	}

	want(1, "it has not signed", on("verify", ref, "--key", a+".pub")...)
	want(0, "is signed by ed25519 key", on("sign", ref, "--key", a)...)
	want(0, "signed by ed25519 key", on("verify", ref, "--key", a+".pub")...)
	want(1, "1 of 2 signatures", on("verify", ref, "--key", a+".pub", "--key", b+".pub")...)
	want(1, "it has not signed", on("verify", ref, "--key", c+".pub")...)
	want(1, "it has not signed", on("verify", other, "--key", a+".pub")...)

	// The second key is elsewhere: its owner gets a text, and sends an answer.
	text := want(0, "Kairos release signature", on("sign", "--detached", ref)...)
	answer := filepath.Join(dir, "answer")
	if err := os.WriteFile(answer, signElsewhere(t, b, []byte(text)), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"sign", "--detached", "--public-key", b + ".pub", "--signature", answer}
	want(1, "its signature is not one of this release.json", on(append(args, other)...)...)
	want(0, "is signed by ecdsa-p256 key", on(append(args, ref)...)...)
	want(0, "signed by ecdsa-p256 key", on("verify", ref, "--key", a+".pub", "--key", b+".pub")...)
	want(0, "signed by", on("verify", ref, "--key", a+".pub", "--key", c+".pub", "--threshold", "1")...)
	want(0, "epoch 3", on("verify", ref, "--key", a+".pub", "--min-epoch", "3")...)
	want(1, "its epoch is 3, and 4 is asked for", on("verify", ref, "--key", a+".pub", "--min-epoch", "4")...)

	for _, bad := range [][]string{
		{"verify", ref},
		{"verify", ref, "--key", a + ".pub", "--threshold", "2"},
		{"verify", ref, "--key", a + ".pub", "--threshold", "0"},
		{"verify", "docker:x", "--key", a + ".pub"},
		{"verify", ref, "--key", filepath.Join(dir, "none")},
		{"sign", ref},
		{"sign", "--detached", "--key", a, ref},
		{"sign", "--detached", "--signature", answer, ref},
		{"sign", "--key", a, "--key", a, ref},
		{"keys", "new", "--type", "rsa", filepath.Join(dir, "d")},
		{"keys", "new"},
	} {
		want(2, "kairos", bad...)
	}
	secret, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	_, errText, code := run(on("verify", ref, "--key", a)...)
	body := strings.Split(string(secret), "\n")[1]
	if code != 1 || strings.Contains(errText, body) || !strings.Contains(errText, `want "PUBLIC KEY"`) {
		t.Errorf("a private key where a public one is asked for: exit code %d: %s", code, errText)
	}
}

// signElsewhere signs as a program does that knows nothing of us: ECDSA over the SHA-256 digest.
func signElsewhere(t *testing.T, file string, text []byte) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	answer, err := key.(crypto.Signer).Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}
