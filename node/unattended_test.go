package node

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Whoever writes a config is root: by http it is taken only if the command line states its digest.
func TestConfigByHTTPNeedsItsDigest(t *testing.T) {
	const text = "#cloud-config\nhostname: node\n"
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked = true
		fmt.Fprint(w, text)
	}))
	defer server.Close()
	if b, err := fetchConfig(t.Context(), server.URL, ""); err == nil || asked ||
		!strings.Contains(err.Error(), "kairos.config_sha256=") {
		t.Errorf("without a digest: %q, %v", b, err)
	}
	if _, err := fetchConfig(t.Context(), server.URL, strings.Repeat("0", 64)); err == nil ||
		!strings.Contains(err.Error(), "has the SHA-256") {
		t.Errorf("with another one's digest: %v", err)
	}
	digest := fmt.Sprintf("%X", sha256.Sum256([]byte(text)))
	if b, err := fetchConfig(t.Context(), server.URL, digest); err != nil || string(b) != text {
		t.Errorf("with its digest: %q, %v", b, err)
	}
	if _, err := fetchConfig(t.Context(), "ftp://127.0.0.1/", digest); err == nil {
		t.Error("ftp is taken")
	}
}
