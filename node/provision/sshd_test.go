package provision

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

func TestSSHHardening(t *testing.T) {
	const include = "Include /etc/ssh/sshd_config.d/*.conf\n"
	s, dir := newSystem(t, layout.RoleSystem, map[string]string{"etc/ssh/sshd_config": include})
	there := func() bool {
		_, err := os.Stat(filepath.Join(dir, sshKeysOnly))
		return err == nil
	}
	const key = "ssh_authorized_keys: [ssh-ed25519 AAAA x]\n"
	user := "users: [" + userYAML() + "]\n"
	if problems := apply(t, s, parse(key+user+"install: {ssh_hardening: true}\n")); problems != "" || !there() {
		t.Fatal(problems)
	}
	// A config that cannot be read opens nothing.
	if problems := apply(t, s, parse("users: [")); problems == "" || !there() {
		t.Errorf("a broken config took it back: %s", problems)
	}
	if problems := apply(t, s, parse(key+user)); problems != "" || there() {
		t.Errorf("a config without it did not take it back: %s", problems)
	}
	// Nobody is locked out.
	problems := apply(t, s, parse("install: {ssh_hardening: true}\nusers: ["+userYAML()+"]\n"))
	if !strings.Contains(problems, "no user has a key") {
		t.Errorf("without a key: %q", problems)
	}

	s, _ = newSystem(t, layout.RoleSystem, map[string]string{"etc/ssh/sshd_config": "Port 22\n"})
	problems = apply(t, s, parse(key+user+"install: {ssh_hardening: true}\n"))
	if !strings.Contains(problems, "Include /etc/ssh/sshd_config.d") {
		t.Errorf("a server that does not read it: %q", problems)
	}
	s, dir = newSystem(t, layout.RoleLive, map[string]string{"etc/ssh/sshd_config": include})
	if problems := apply(t, s, parse(key+user+"install: {ssh_hardening: true}\n")); problems != "" || there() {
		t.Errorf("on a live medium: %q", problems)
	}
}

func TestNoUserGroup(t *testing.T) {
	s, _ := newSystem(t, layout.RoleSystem, nil)
	c := parse("users: [{name: a, no_user_group: true}, {name: b, no_user_group: true, primary_group: mine}]\n")
	for i, want := range []string{"users", "mine"} {
		if got := s.user(c.Users()[i], nil).PrimaryGroup; got != want {
			t.Errorf("the group is %q, want %q", got, want)
		}
	}
}

func TestReplaceArgs(t *testing.T) {
	s, dir := newSystem(t, layout.RoleSystem, map[string]string{"usr/bin/k3s": "#!/bin/sh\n"})
	for text, want := range map[string]string{
		"args: [--a], embedded_registry: true":                     `"--a" "--embedded-registry"`,
		"args: [--a], embedded_registry: true, replace_args: true": `"--a"`,
	} {
		if problems := apply(t, s, parse("k3s: {enabled: true, "+text+"}\n")); problems != "" {
			t.Fatal(problems)
		}
		unit := get(t, dir, "run/systemd/system/k3s.service")
		if !strings.Contains(unit, `ExecStart="/usr/bin/k3s" "server" `+want+"\n") {
			t.Errorf("%s: %s", text, unit)
		}
	}
}
