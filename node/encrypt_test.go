package node

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/disk/luks"
	"github.com/kairos-buildkit/kairos/layout"
)

func TestEncryptable(t *testing.T) {
	both := []string{"oem", "persistent"}
	for want, c := range map[string]struct {
		config.Install
		unattended bool
	}{
		"":                              {config.Install{}, true},
		"nobody would see":              {config.Install{Encrypted: both}, true},
		"no-format the partitions stay": {config.Install{Encrypted: both, NoFormat: true}, false},
	} {
		err := encryptable(c.Install, c.unattended)
		var refused *RefusedError
		if want == "" && err != nil ||
			want != "" && (!errors.As(err, &refused) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := encryptable(config.Install{Encrypted: both}, false); err != nil {
		t.Error(err)
	}
}

// A volume takes the place of what was there, at its place on the disk and nowhere else.
func TestNewVolume(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	old := bytes.Repeat([]byte{0xa5}, 24<<20)
	if _, err := f.Write(old); err != nil {
		t.Fatal(err)
	}
	const at, size = 2 << 20, 20 << 20
	recovery := luks.NewRecoveryKey()
	v, err := newVolume(sectionOf(f, at, size), layout.LabelOEM, 512, recovery, []byte("battery horse"))
	if err != nil {
		t.Fatal(err)
	}
	on := sectionOf(f, at, size)
	h, err := luks.Read(on)
	if err != nil || h.Label != layout.LabelOEM {
		t.Fatalf("%+v, %v", h, err)
	}
	for _, secret := range []string{recovery, "battery horse"} {
		if key, _, err := h.Open(on, []byte(secret), 64<<20); err != nil || !bytes.Equal(key, v.key) {
			t.Errorf("%s: %v", secret, err)
		}
	}
	for _, tok := range h.Tokens() {
		if tok.Type != layout.TokenRecovery {
			t.Errorf("%+v", tok)
		}
	}
	now, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if end := at + h.Begin(); !bytes.Equal(now[:at], old[:at]) || !bytes.Equal(now[end:], old[end:]) ||
		bytes.Contains(now[at:end], old[:64]) {
		t.Error("something beside the volume has changed, or something of what was there is left in it")
	}
}

// An image that does not open encrypted partitions takes no place on a machine that has them.
func TestEncryptedMachineRefuses(t *testing.T) {
	m := &Machine{Root: t.TempDir(), Boot: layout.Boot{Role: layout.RoleSystem, Firmware: layout.FirmwareBIOS}}
	release := layout.Release{Config: layout.Digest("sha256:" + strings.Repeat("a", 64))}
	accept := func(facts bootFacts) error { return m.acceptable(release, nil, facts, nil) }
	if err := accept(bootFacts{}); err != nil {
		t.Fatal(err)
	}
	m.Boot.Encrypted = map[string]layout.Encrypted{"oem": {Device: "/dev/vda3"}}
	if err := accept(bootFacts{}); err == nil || !strings.Contains(err.Error(), "does not open encrypted partitions") {
		t.Errorf("%v", err)
	}
	if err := accept(bootFacts{encryption: true}); err != nil {
		t.Error(err)
	}
	m.Boot.Encrypted["persistent"] = layout.Encrypted{Device: "/dev/vda6"}
	if err := m.resettable(ResetOptions{Unattended: true}); err == nil {
		t.Error("an unattended reset makes a key that nobody sees")
	}
	m.Boot.Encrypted["persistent"] = layout.Encrypted{Device: "/dev/vda6", UnlockedBy: layout.UnlockedByPassphrase}
	if err := m.resettable(ResetOptions{Unattended: true}); err != nil {
		t.Error(err)
	}
}
