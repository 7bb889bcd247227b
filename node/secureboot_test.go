package node

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/internal/efivars"
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
