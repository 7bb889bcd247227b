package node

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

func TestLogs(t *testing.T) {
	a, _, _ := threeImages(t)
	m := install(t, t.TempDir(), layout.FirmwareUEFI, t.TempDir(), a)
	writeOEM(t, m, "hostname: n1\nunknown: 1\nusers: [{name: a, passwd: SECRET}]\n"+
		"logs: {files: [/var/log/my/*.log, /missing]}\n")
	secret := filepath.Join(t.TempDir(), "shadow")
	my := filepath.Join(m.Root, "var/log/my")
	reports := filepath.Join(m.State.Dir(), layout.FailureDir)
	for _, dir := range []string{my, reports} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(my, 0o777); err != nil { // a user's
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		secret: "SECRET", filepath.Join(my, "a.log"): "my log",
		filepath.Join(my, "big.log"):               strings.Repeat("x", maxLog) + "the end",
		filepath.Join(reports, "cccccccccccc.txt"): "it broke",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(secret, filepath.Join(my, "link.log")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(secret, filepath.Join(my, "hard.log")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := m.Logs(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, &b)
	for name, want := range map[string]string{
		"status.json": a.id, "config.yaml": "hostname: n1", "config-report.txt": "unknown",
		"files/var/log/my/a.log": "my log", "reports/cccccccccccc.txt": "it broke", "boot-entries.txt": a.id,
		"errors.txt": "/missing",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s: %.300q, want %q", name, files[name], want)
		}
	}
	if big := files["files/var/log/my/big.log"]; len(big) != maxLog || !strings.HasSuffix(big, "the end") {
		t.Errorf("a large file: %d bytes", len(big))
	}
	for name, text := range files {
		if strings.Contains(text, "SECRET") {
			t.Errorf("%s has the secret", name)
		}
	}
}

func unpack(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "kairos-logs/")] = string(b)
	}
}
