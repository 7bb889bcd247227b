package node

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/internal/tpm"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// enforces gives a machine firmware with Secure Boot, whose db has some certificates.
func enforces(t *testing.T, m *Machine, on byte, db ...*x509.Certificate) {
	t.Helper()
	dir := m.path(string(efivars.System))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"SecureBoot-" + efivars.Global:            {on},
		"db-d719b2cb-3d3a-4596-a3bc-dad00e67656f": secureboot.Database{Certificates: db}.Marshal(secureboot.GUID{}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), append([]byte{6, 0, 0, 0}, content...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A node whose firmware enforces Secure Boot takes no release that it would not start, for the UKI or for the boot
// loader; and no node takes one whose boot files are others than those that its image's key has signed.
func TestSecureBootUpgrade(t *testing.T) {
	ours, err := secureboot.NewKeys("ours", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := secureboot.NewKeys("stranger", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	signed := func(by *secureboot.Keys, text string) []byte {
		b := boottest.Program(text)
		if by == nil {
			return b
		}
		if b, err = by.DB.Sign(b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	cert := ours.DB.Certificate
	a, b := large(t)
	for name, c := range map[string]struct {
		uki, loader *secureboot.Keys
		named       *x509.Certificate // in the image
		enforcing   byte
		db          []*x509.Certificate
		want        string
	}{
		"signed":                  {ours, ours, cert, 1, []*x509.Certificate{cert}, ""},
		"signed, not enforced":    {ours, ours, cert, 0, nil, ""},
		"unsigned, not enforced":  {nil, nil, nil, 0, []*x509.Certificate{cert}, ""},
		"unsigned":                {nil, ours, nil, 1, []*x509.Certificate{cert}, "kairos.efi: it is not signed"},
		"by a stranger":           {stranger, ours, nil, 1, []*x509.Certificate{cert}, "none of the firmware's db"},
		"an unsigned boot loader": {ours, nil, nil, 1, []*x509.Certificate{cert}, "boot.efi: it is not signed"},
		"no key of the firmware":  {ours, ours, cert, 1, []*x509.Certificate{stranger.DB.Certificate}, "none of the"},
		"not as its image says":   {nil, ours, cert, 0, nil, "is not the one that its key for Secure Boot has signed"},
	} {
		t.Run(name, func(t *testing.T) {
			m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
			enforces(t, m, c.enforcing, c.db...)
			program, loaderProgram := signed(c.uki, "uki"), signed(c.loader, "systemd-boot")
			m.bootFiles = func(s *store.Store, r layout.Release, p Progress) (loader.BootFiles, bootFacts, error) {
				files, facts, err := fakeBootFiles(s, r, p)
				files.UKI, facts.loader = program, loaderProgram
				if c.named != nil {
					facts.secureBoot = &boot.SecureBoot{Certificate: c.named}
				}
				return files, facts, err
			}
			_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()})
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantRefused(t, err, c.want)
			if _, err := m.State.Release(b.id); err == nil {
				t.Error("the release has its record")
			}
			m.Boot.Firmware = layout.FirmwareBIOS
			if err := m.startable(layout.Release{}, program, bootFacts{loader: loaderProgram}); err != nil {
				t.Errorf("under BIOS: %v", err)
			}
		})
	}
}

// The status says what the firmware says of Secure Boot, whatever its databases are, and nothing where it cannot.
func TestStatusOfSecureBoot(t *testing.T) {
	on, off := []byte{7, 0, 0, 0, 1}, []byte{7, 0, 0, 0, 0}
	for name, c := range map[string]struct {
		firmware  string
		variables map[string][]byte
		want      string
		problem   bool
	}{
		"enforcing":  {"uefi", map[string][]byte{"SecureBoot": on, "SetupMode": off}, api.SecureBootEnforcing, false},
		"off":        {"uefi", map[string][]byte{"SecureBoot": off, "SetupMode": off}, api.SecureBootOff, false},
		"setup":      {"uefi", map[string][]byte{"SecureBoot": off, "SetupMode": on}, api.SecureBootSetup, false},
		"knows none": {"uefi", map[string][]byte{"Lang": on}, api.SecureBootOff, false},
		"no access":  {"uefi", nil, "", false},
		"BIOS":       {"bios", map[string][]byte{"SecureBoot": on}, "", false},
		"damaged":    {"uefi", map[string][]byte{"SecureBoot": on[:4]}, "", true},
	} {
		m := &Machine{
			Root: t.TempDir(), Boot: layout.Boot{Role: layout.RoleLive, Release: idA, Firmware: c.firmware},
			openTPM: tpm.Open,
		}
		dir := string(m.variables())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if c.variables != nil {
			name := filepath.Join(dir, "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f")
			if err := os.WriteFile(name, []byte("damaged"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for variable, b := range c.variables {
			if err := os.WriteFile(filepath.Join(dir, variable+"-"+efivars.Global), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s, err := m.Status()
		if err != nil || s.SecureBoot != c.want || (len(s.Problems) > 0) != c.problem {
			t.Errorf("%s: %q, %q, %v, want %q", name, s.SecureBoot, s.Problems, err, c.want)
		}
	}
}
