package main

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	testregistry "github.com/google/go-containerregistry/pkg/registry"

	"github.com/kairos-buildkit/kairos/image/policy/policytest"
)

// A policy's answer is that of a node.
func TestVerifyPolicy(t *testing.T) {
	srv := httptest.NewServer(testregistry.New(
		testregistry.Logger(log.New(io.Discard, "", 0)), testregistry.WithReferrersSupport(true),
	))
	defer srv.Close()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	ref := published(t, strings.TrimPrefix(srv.URL, "http://"), "v1")
	digest := byDigest(t, ref)
	key := policytest.NewKey(t)
	dir := t.TempDir()
	file, public := filepath.Join(dir, "policy.json"), filepath.Join(dir, "cosign.pub")
	for name, content := range map[string]string{
		public: string(key.Public),
		file: `{"default":[{"type":"sigstoreSigned","keyPath":"` + public +
			`","signedIdentity":{"type":"matchRepository"}}]}`,
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"verify", "--platform", "linux/amd64", "--policy", file, ref}
	if _, stderr := run(t, 1, args...); !strings.Contains(stderr, "does not accept the image "+ref) ||
		!strings.Contains(stderr, "is not signed") {
		t.Error(stderr)
	}
	policytest.Sign(t, digest, policytest.Claim(t, digest, ""), key)
	if stdout, _ := run(t, 0, args...); !strings.Contains(stdout, "signed by "+public+" (sha256:") {
		t.Error(stdout)
	}
	run(t, 1, append(args, "--key", public)...) // a key is one of the release's, which nobody has signed
}
