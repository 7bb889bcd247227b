package provision

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// Whatever a node makes of a config's secrets is for root alone, in every role, with cloud-init and without. A plain
// password is in no file, and the config that is kept has no secret at all.
func TestSecretsAreForRootAlone(t *testing.T) {
	text := `users: [` + strings.TrimSuffix(userYAML(), "}") + `, ssh_authorized_keys: ['github:octo']},
  {name: other, passwd: s3cret-password, primary_group: mine, no_create_home: true}]
write_files: [{path: /etc/own, content: s3cret, permissions: 0600}]
runcmd: [echo s3cret]
env: {TOKEN: s3cret}
chpasswd: {list: "a:s3cret-cloud"}
k3s: {enabled: true, args: [--flannel-backend=none], env: {K3S_TOKEN: s3cret}}
stages:
  initramfs: [{commands: [echo s3cret]}]
  boot: [{commands: [echo s3cret]}]
install: {env: [A=s3cret]}
`
	for _, role := range []string{layout.RoleSystem, layout.RoleLive, layout.RoleRecovery} {
		for name, files := range map[string]map[string]string{
			"alone":      {"usr/bin/k3s": "#!/bin/sh\n"},
			"cloud-init": {"usr/bin/k3s": "#!/bin/sh\n", "usr/bin/cloud-init": "#!/bin/sh\n"},
		} {
			s, dir := newSystem(t, role, files)
			if problems := apply(t, s, parse(text)); problems != "" {
				t.Errorf("%s, %s: %s", role, name, problems)
			}
			seen := 0
			walk := func(p string, e fs.DirEntry, err error) error {
				if err != nil || !e.Type().IsRegular() {
					return err
				}
				b, err := os.ReadFile(p)
				if err != nil || !strings.Contains(string(b), "s3cret") {
					return err
				}
				seen++
				rel := strings.TrimPrefix(p, dir+"/")
				if open := openTo(t, dir, rel); open {
					t.Errorf("%s, %s: all can read %s", role, name, rel)
				}
				if strings.Contains(string(b), "s3cret-password") || rel == layout.KeptConfig {
					t.Errorf("%s, %s: a secret is kept in %s", role, name, rel)
				}
				return nil
			}
			if err := filepath.WalkDir(dir, walk); err != nil {
				t.Fatal(err)
			}
			if seen < 3 {
				t.Errorf("%s, %s: only %d files have one", role, name, seen)
			}
			if role != layout.RoleSystem {
				continue
			}
			kept, shadow := get(t, dir, layout.KeptConfig), get(t, dir, "etc/shadow")
			apply(t, s, parse(text))
			if !strings.Contains(kept, "hashed_passwd: $6$") || kept != get(t, dir, layout.KeptConfig) ||
				shadow != get(t, dir, "etc/shadow") {
				t.Errorf("%s: the next boot has another hash of the same password: %s", name, kept)
			}
		}
	}
}

// openTo says whether others than root and its group can read a file, by its mode and that of the folders above it.
func openTo(t *testing.T, root, name string) bool {
	t.Helper()
	info, err := os.Stat(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o004 == 0 {
		return false
	}
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		if info, err := os.Stat(filepath.Join(root, dir)); err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
	}
	return true
}
