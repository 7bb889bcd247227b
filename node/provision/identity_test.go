package provision

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
)

// In its recovery system a node has the same machine-id and the same SSH host keys, for root alone, and none of the
// image's.
func TestRecoveryIsTheSameMachine(t *testing.T) {
	const id = "fedcba9876543210fedcba9876543210\n"
	s, dir := newSystem(t, layout.RoleRecovery, map[string]string{
		"etc/ssh/ssh_host_rsa_key": "the image's",
		"etc/ssh/sshd_config":      "the image's",
	})
	s.Persistent = fstest.MapFS{
		".state/machine-id":                          {Data: []byte(id)},
		".state/etc-ssh.bind/ssh_host_ecdsa_key":     {Data: []byte("secret")},
		".state/etc-ssh.bind/ssh_host_ecdsa_key.pub": {Data: []byte("public")},
		".state/etc-ssh.bind/ssh_host_large_key":     {Data: make([]byte, 64<<10+1)},
		".state/etc-ssh.bind/ssh_host_link_key":      {Data: []byte("/etc/shadow"), Mode: os.ModeSymlink | 0o777},
	}
	if _, err := s.Apply(t.Context(), config.Merge()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"etc/machine-id":                 id,
		"etc/ssh/ssh_host_ecdsa_key":     "secret",
		"etc/ssh/ssh_host_ecdsa_key.pub": "public",
		"etc/ssh/sshd_config":            "the image's",
		"etc/ssh/ssh_host_rsa_key":       "",
		"etc/ssh/ssh_host_large_key":     "",
		"etc/ssh/ssh_host_link_key":      "",
	} {
		if b, _ := os.ReadFile(filepath.Join(dir, name)); string(b) != want {
			t.Errorf("%s is %q, want %q", name, b, want)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "etc/ssh/ssh_host_ecdsa_key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret key: %v, %v", info, err)
	}
}

// On a live medium a config's templates name a machine-id that stays.
func TestLiveMachineID(t *testing.T) {
	s, dir := newSystem(t, layout.RoleLive, map[string]string{"etc/machine-id": ""})
	c := config.Merge(config.Parse("c", []byte("hostname: node-{{ trunc 4 .MachineID }}\n")))
	if problems, err := s.Apply(t.Context(), c); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	id, _ := os.ReadFile(filepath.Join(dir, "etc/machine-id"))
	name, _ := os.ReadFile(filepath.Join(dir, "etc/hostname"))
	if len(id) != 33 || string(name) != "node-"+string(id[:4])+"\n" {
		t.Errorf("machine-id %q, host name %q", id, name)
	}
}
