package arch

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// foreign are the packages of other modules that /init is linked with. Each is loaded at every boot of every
// machine, before a byte of it is verified: one more needs a reason.
var foreign = map[string]string{
	"github.com/containerd/go-dmverity/pkg/dm":   "device mapper's ioctls",
	"github.com/diskfs/go-diskfs/backend":        "what go-diskfs reads a table from",
	"github.com/diskfs/go-diskfs/partition/gpt":  "a torn partition table is healed before the root is there",
	"github.com/diskfs/go-diskfs/partition/part": "its interface of a partition",
	"github.com/google/go-tpm/legacy/tpm2":       "go-tpm's tpm2 looks into it",
	"github.com/google/go-tpm/tpm2":              "a sealed machine's TPM holds the lowest epoch that starts",
	"github.com/google/go-tpm/tpm2/transport":    "its interface of a TPM",
	"github.com/google/go-tpm/tpmutil":           "its encoding of structures",
	"github.com/google/uuid":                     "GUIDs in go-diskfs' GPT",
	"golang.org/x/crypto/argon2":                 "a passphrase opens encrypted partitions",
	"golang.org/x/crypto/blake2b":                "argon2's hash",
	"golang.org/x/crypto/internal/alias":         "xts checks that its buffers do not overlap",
	"golang.org/x/crypto/xts":                    "keyslots of LUKS2",
	"golang.org/x/sys/cpu":                       "blake2b asks which instructions there are",
	"golang.org/x/sys/unix":                      "system calls",
}

// barred are packages of the standard library, and what is below them, that have no business before the root is there.
var barred = []string{
	"net", "crypto/tls", "crypto/x509", "database/sql", "encoding/gob", "encoding/xml", "html/template", "log", "mime",
	"os/user", "plugin", "testing", "text/template",
}

// excused are those that come with a package in foreign, and why they may.
var excused = map[string]string{
	"net":                 "google/uuid asks for the address of a network card, in functions that nobody calls",
	"net/netip":           "addresses of package net",
	"database/sql/driver": "google/uuid's methods for databases; interfaces alone",
}

// unlinked begin the names of functions that open sockets: the linker leaves them out, since nobody calls them.
var unlinked = []string{"net.Dial", "net.Listen", "net.(*Dialer)", "net.(*Resolver)", "net.socket"}

// What /init is made of, whoever imports it.
func TestInit(t *testing.T) {
	list := goTool(t, "list", "-deps", "./cmd/kairos-init")
	seen := map[string]bool{}
	for _, p := range strings.Fields(list) {
		for _, b := range barred {
			if within(p, b) && excused[p] == "" {
				t.Errorf("/init imports %s, by way of something: go mod why -m, go list -deps", p)
			}
		}
		if first, _, _ := strings.Cut(p, "/"); !strings.Contains(first, ".") {
			continue
		}
		if strings.HasPrefix(p, module) {
			continue // ours: see allowed
		}
		seen[p] = true
		if foreign[p] == "" {
			t.Errorf("/init imports %s: give the reason in `foreign`, or do without it", p)
		}
	}
	for f := range foreign {
		if !seen[f] {
			t.Errorf("/init does not import %s any more: remove it from `foreign`", f)
		}
	}

	program := filepath.Join(t.TempDir(), "init")
	goTool(t, "build", "-o", program, "./cmd/kairos-init")
	if b, err := os.ReadFile(program); err != nil || !bytes.Contains(b, []byte(layout.AsksForKey)) {
		t.Errorf("no boot layer would be taken for one that opens encrypted partitions: %v", err)
	}
	for line := range strings.Lines(goTool(t, "tool", "nm", program)) {
		_, symbol, _ := strings.Cut(strings.TrimSpace(line), " ")
		for _, u := range unlinked {
			if strings.Contains(symbol, " "+u) {
				t.Errorf("/init can open sockets: it has %s", symbol)
			}
		}
	}
}

// goTool runs the go command in the project's root.
func goTool(t *testing.T, args ...string) string {
	t.Helper()
	c := exec.Command("go", args...)
	c.Dir = filepath.Join("..", "..")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go %v: %v", args, err)
	}
	return string(out)
}
