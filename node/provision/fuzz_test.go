package provision

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/provision/accounts"
)

// Whatever a config says of users, the databases stay what login and NSS read, root stays root, nothing is written
// through a link, and the same config changes nothing at the next boot.
func FuzzUsers(f *testing.F) {
	f.Add("users:\n  - " + userYAML() + "\n")
	f.Add("users:\n- {name: a, uid: 0, homedir: /home/link/a, ssh_authorized_keys: [ssh-ed25519 AAAA]}\n")
	f.Add("users:\n- {name: root, shell: '/bin/sh:x', gecos: \"a:b\\nc\", groups: 'x, y:z', lock_passwd: false}\n" +
		"ssh_authorized_keys: [\"k\\nk2\"]\n")
	f.Add("users: [default, {name: x, system: true, no_create_home: true, sudo: 'ALL=(ALL) ALL\n%x'}]\npassword: p\n")
	f.Fuzz(func(t *testing.T, text string) {
		c := config.Merge(config.Parse("fuzz.yaml", []byte(text)))
		s, dir := newSystem(t, layout.RoleSystem, nil)
		outside := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "home"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(dir, "home/link")); err != nil {
			t.Fatal(err)
		}
		s.applyUsers(c, nil)
		before := databases(t, dir)
		s.applyUsers(c, nil)
		if after := databases(t, dir); after != before {
			t.Errorf("the second time changes\n%s\nto\n%s", before, after)
		}
		if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
			t.Errorf("written through a link: %v (%v)", left, err)
		}
	})
}

// databases checks passwd, group and shadow, and returns the first two.
func databases(t *testing.T, dir string) string {
	t.Helper()
	for name, fields := range map[string]int{"passwd": 7, "group": 4, "shadow": 9} {
		text := get(t, dir, "etc/"+name)
		seen := map[string]bool{}
		if !strings.HasPrefix(text, "root:") || !strings.HasSuffix(text, "\n") {
			t.Fatalf("%s: %q", name, text)
		}
		for line := range strings.Lines(text) {
			f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
			if len(f) != fields || seen[f[0]] || accounts.CheckName(f[0]) != nil ||
				strings.ContainsAny(line, "\x00\r") {
				t.Fatalf("%s: line %q", name, line)
			}
			seen[f[0]] = true
			if name == "shadow" {
				continue
			}
			n, err := strconv.ParseUint(f[2], 10, 32)
			if err != nil || (n == 0) != (f[0] == "root") {
				t.Fatalf("%s: line %q", name, line)
			}
			if name == "passwd" && (!strings.HasPrefix(f[5], "/") || f[6] != "" && !strings.HasPrefix(f[6], "/")) {
				t.Fatalf("%s: line %q", name, line)
			}
		}
	}
	return get(t, dir, "etc/passwd") + get(t, dir, "etc/group")
}
