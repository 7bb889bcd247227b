package accounts

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-crypt/crypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/provision/tree"
)

// self is the number of a user that the test can give files to: its own, or any where it is root.
func self() (uid, gid int) {
	if os.Geteuid() != 0 {
		return os.Geteuid(), os.Getegid()
	}
	return 4242, 4243
}

func system(t *testing.T, files map[string]string) (System, string) {
	t.Helper()
	dir := t.TempDir()
	_, gid := self()
	all := map[string]string{
		"etc/passwd":  "root:x:0:0:root:/root:/bin/sh\nnot a line\n",
		"etc/group":   fmt.Sprintf("root:x:0:\nsudo:x:27:\nmine:x:%d:\n", gid),
		"etc/shadow":  "root:*:19000:0:99999:7:::\n",
		"etc/gshadow": "root:*::\nsudo:*::\n",
		"etc/sudoers": "@includedir /etc/sudoers.d\n",
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := tree.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return System{Root: r, Keep: true, Sudoers: StrictSudoers{}}, dir
}

func read1(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// field returns a field of a user's or group's line.
func field(t *testing.T, dir, file, name string, n int) string {
	t.Helper()
	for line := range strings.Lines(read1(t, dir, file)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); f[0] == name && len(f) > n {
			return f[n]
		}
	}
	t.Fatalf("no %s in %s", name, file)
	return ""
}

func TestApply(t *testing.T) {
	s, dir := system(t, map[string]string{"etc/skel/.profile": "# hello\n"})
	p := filepath.Join(dir, "etc/shadow")
	if err := os.Chmod(p, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(p, "user.label", []byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	uid, gid := self()
	users := []User{
		{
			Name:         "ops",
			UID:          &uid,
			PrimaryGroup: "mine",
			Groups:       []string{"sudo", "admin"},
			Password:     "kairos",
			Shell:        "/bin/bash",
			Gecos:        "An: operator",
			Keys:         []string{"key-1"},
			Sudo:         []string{"ALL=(ALL) NOPASSWD:ALL"},
		},
		{Name: "daemon1", System: true, NoCreateHome: true},
		{Name: "Bad:name"},
	}
	for range 2 { // twice is once
		err := s.Apply(users)
		var bad *UserError
		if !errors.As(err, &bad) || bad.User != "Bad:name" || strings.Contains(err.Error(), "user ops") {
			t.Fatalf("%v", err)
		}
	}
	for name, want := range map[string]string{
		"etc/passwd": fmt.Sprintf("root:x:0:0:root:/root:/bin/sh\nnot a line\nops:x:%d:%d:An  "+
			"operator:/home/ops:/bin/bash\n"+
			"daemon1:x:999:999::/home/daemon1:/bin/sh\n", uid, gid),
		"etc/group": fmt.Sprintf("root:x:0:\nsudo:x:27:ops\nmine:x:%d:\nadmin:x:900:ops\n"+
			"daemon1:x:999:\n", gid),
		"etc/gshadow":                   "root:*::\nsudo:*::ops\nadmin:!::ops\ndaemon1:!::\n",
		"home/ops/.profile":             "# hello\n",
		"home/ops/.ssh/authorized_keys": "key-1\n",
		"etc/sudoers.d/90-kairos-ops":   "ops ALL=(ALL) NOPASSWD:ALL\n",
		"etc/sudoers.d/80-kairos-groups": "%admin ALL=(ALL:ALL) NOPASSWD: ALL\n" +
			"%sudo ALL=(ALL:ALL) ALL\n",
	} {
		if got := read1(t, dir, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if ok, err := crypt.CheckPassword("kairos", field(t, dir, "etc/shadow", "ops", 1)); err == nil && !ok {
		t.Error("the password does not fit")
	}
	if strings.Contains(read1(t, dir, "etc/shadow"), "kairos") {
		t.Error("the plain password is stored")
	}
	if got := field(t, dir, "etc/shadow", "daemon1", 1); got != "*" {
		t.Errorf("no password is %q", got)
	}
	info, err := os.Stat(p)
	b := make([]byte, 8)
	n, xerr := unix.Getxattr(p, "user.label", b)
	if err != nil || info.Mode() != 0o640 || xerr != nil || string(b[:n]) != "kept" {
		t.Errorf("etc/shadow: %v, %v, attribute %q, %v", info.Mode(), err, b, xerr)
	}
	for _, name := range []string{"home/ops", "home/ops/.ssh", "home/ops/.ssh/authorized_keys"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil || int(st.Uid) != uid || int(st.Gid) != gid ||
			st.Mode&0o077 != 0 {
			t.Errorf("%s: owner %d:%d, mode %o, %v", name, st.Uid, st.Gid, st.Mode, err)
		}
	}
}

func TestPasswords(t *testing.T) {
	hash, err := hashed("secret", false)
	if err != nil || !strings.HasPrefix(hash, "$6$") {
		t.Fatalf("%q, %v", hash, err)
	}
	yes := "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7"
	for name, c := range map[string]struct {
		u    User
		want string // "": a hash of the password
	}{
		"plain":                   {User{Password: "kairos"}, ""},
		"plain like a hash":       {User{Password: hash, Plain: true}, ""},
		"plain with a dollar":     {User{Password: "$6$x$y"}, ""},
		"plain with a colon":      {User{Password: "a:b"}, ""},
		"hash":                    {User{Password: hash}, hash},
		"yescrypt":                {User{Password: yes}, yes},
		"locked hash":             {User{Password: hash, Lock: true}, "!" + hash},
		"locked, with a key":      {User{Password: hash, Lock: true, Keys: []string{"k"}}, "*"},
		"none":                    {User{}, "*"},
		"none, locked":            {User{Lock: true}, "*"},
		"locked in the old words": {User{Password: "!" + hash}, "!" + hash},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := system(t, nil)
			c.u.Name, c.u.NoCreateHome = "u", true
			var keys []string
			keys, c.u.Keys = c.u.Keys, nil
			if len(keys) > 0 {
				c.u.Keys, c.u.Home = keys, "/nonexistent"
			}
			_ = s.Apply([]User{c.u}) // a key needs a home
			got := field(t, dir, "etc/shadow", "u", 1)
			if c.want != "" {
				if got != c.want {
					t.Errorf("%q, want %q", got, c.want)
				}
				return
			}
			d := crypt.NewDecoder()
			if err := shacrypt.RegisterDecoder(d); err != nil {
				t.Fatal(err)
			}
			digest, err := d.Decode(got)
			if err != nil || !digest.Match(c.u.Password) {
				t.Errorf("%q is no hash of %q: %v", got, c.u.Password, err)
			}
		})
	}
}

// A number never moves, whatever an image brings.
func TestNumbersStay(t *testing.T) {
	s, dir := system(
		t,
		map[string]string{
			"etc/passwd": "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
			"etc/group":  "root:x:0:\napp:x:1000:\n",
		},
	)
	ops, late := User{Name: "ops", NoCreateHome: true}, User{Name: "late", NoCreateHome: true}
	if err := s.Apply([]User{ops}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"app": "1000", "ops": "1001"}
	// The next image has a user of its own before app.
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(
		"etc/passwd",
		"root:x:0:0::/root:/bin/sh\naaa:x:1000:1000::/home/aaa:/bin/sh\n"+
			"app:x:1001:1001::/home/app:/bin/sh\nops:x:1002:1002::/home/ops:/bin/sh\n",
	)
	put("etc/group", "root:x:0:\naaa:x:1000:\napp:x:1001:\nops:x:1002:\n")
	put("etc/shadow", "root:*:::::::\n")
	err := s.Apply([]User{late, ops})
	if err == nil || !strings.Contains(err.Error(), "user aaa: ") {
		t.Errorf("nobody is told that aaa was moved: %v", err)
	}
	want["aaa"], want["late"] = "1003", "1004"
	seen := map[string]string{}
	for name, id := range want {
		if got := field(t, dir, "etc/passwd", name, 2); got != id {
			t.Errorf("%s has %s, want %s", name, got, id)
		} else if seen[got] != "" {
			t.Errorf("%s and %s have one number", name, seen[got])
		} else {
			seen[got] = name
		}
		if got := field(t, dir, "etc/passwd", name, 3); got != field(t, dir, "etc/group", name, 2) {
			t.Errorf("%s has the group %s", name, got)
		}
	}
	other := 1001
	for name, u := range map[string]User{
		"another's": {Name: "x", UID: &other, NoCreateHome: true},
		"its own":   {Name: "late", UID: &other, NoCreateHome: true},
	} {
		if err := s.Apply([]User{u}); err == nil || !strings.Contains(err.Error(), "1001") {
			t.Errorf("%s: %v", name, err)
		}
		if field(t, dir, "etc/passwd", u.Name, 2) == "1001" {
			t.Errorf("%s: the number moved", name)
		}
	}
}

// Nodes that are older than the ledger have homes.
func TestNumbersAreAdoptedFromHomes(t *testing.T) {
	uid, _ := self()
	s, dir := system(t, nil)
	if !regular(uid) {
		t.Fatalf("run this as root, or as a user with a number from %d: %d", layout.FirstUserID, uid)
	}
	home := filepath.Join(dir, "home/ops")
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(home, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Apply([]User{{Name: "new", UID: &uid, NoCreateHome: true}, {Name: "ops"}}); err == nil ||
		!strings.Contains(err.Error(), "ops's") {
		t.Errorf("%v", err)
	}
	if got := field(t, dir, "etc/passwd", "ops", 2); got != fmt.Sprint(uid) {
		t.Errorf("ops has %s, and its home %d", got, uid)
	}
	if field(t, dir, "etc/passwd", "new", 2) == fmt.Sprint(uid) {
		t.Error("a number that owns another's home")
	}
	var ids layout.IDs
	if err := json.Unmarshal([]byte(read1(t, dir, layout.AccountIDs)), &ids); err != nil || ids.Users["ops"] != uid {
		t.Errorf("ledger %+v, %v", ids, err)
	}
}

func TestSudoRules(t *testing.T) {
	for text, ok := range map[string]bool{
		"ALL=(ALL) NOPASSWD:ALL": true, "ALL=(ALL:ALL) ALL": true,
		"ALL = NOPASSWD: /usr/bin/systemctl restart x, /bin/ls": true, "ALL=(root) /bin/a *, !/bin/b": true,
		"ALL": false, "ALL=(ALL) NOPASSWD": false, "ALL=(ALL) ALL\nmallory ALL=(ALL) ALL": false,
		"ALL=(ALL) ls": false, "": false, "ALL=(ALL": false,
	} {
		if err := checkRule(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
	s, dir := system(t, nil)
	if err := s.Apply([]User{{Name: "u", NoCreateHome: true, Sudo: []string{"ALL=(ALL) NOPASSWD"}}}); err == nil {
		t.Error("a wrong rule was taken")
	}
	if _, err := os.Stat(filepath.Join(dir, "etc/sudoers.d")); err == nil {
		t.Error("a wrong rule was written")
	}
	script := filepath.Join(dir, "visudo")
	err := os.WriteFile(script, []byte("#!/bin/sh\ngrep -q nice \"$3\" || { echo \"$3:1: bad\"; exit 1; }\n"), 0o755)
	if err != nil {
		t.Fatal(err)
	}
	s.Sudoers = Visudo{script, dir}
	if err := s.Apply([]User{
		{Name: "u", NoCreateHome: true, Sudo: []string{"bad"}},
		{Name: "v", NoCreateHome: true, Sudo: []string{"nice"}},
	}); err == nil ||
		!strings.Contains(err.Error(), "rule:1: bad") ||
		strings.Contains(err.Error(), "user v") {
		t.Errorf("%v", err)
	}
	os.Remove(filepath.Join(dir, "etc/sudoers"))
	if err := s.Apply([]User{{Name: "v", NoCreateHome: true, Sudo: []string{"nice"}}}); err == nil ||
		!strings.Contains(err.Error(), "install the package sudo") {
		t.Errorf("%v", err)
	}
}

// A user leaves something else where the keys go.
func TestKeysStayInTheHome(t *testing.T) {
	uid, gid := self()
	for name, prepare := range map[string]func(home, outside string) error{
		".ssh is a link": func(h, o string) error { return os.Symlink(o, h+"/.ssh") },
		".ssh is a FIFO": func(h, o string) error { return unix.Mkfifo(h+"/.ssh", 0o600) },
		".ssh is a file": func(h, o string) error { return os.WriteFile(h+"/.ssh", nil, 0o600) },
		"the file is a link": func(h, o string) error {
			return errors.Join(os.Mkdir(h+"/.ssh", 0o700), os.Symlink(o+"/authorized_keys", h+"/.ssh/authorized_keys"))
		},
		"the file is a hard link": func(h, o string) error {
			return errors.Join(os.Mkdir(h+"/.ssh", 0o700), os.Chmod(h+"/.ssh", 0o777),
				os.Link(o+"/authorized_keys", h+"/.ssh/authorized_keys"))
		},
		"the file is a FIFO": func(h, o string) error {
			return errors.Join(os.Mkdir(h+"/.ssh", 0o700), unix.Mkfifo(h+"/.ssh/authorized_keys", 0o600))
		},
		"the home is a wrong one's": nil,
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := system(t, map[string]string{"outside/authorized_keys": "theirs\n"})
			home, outside := filepath.Join(dir, "home/ops"), filepath.Join(dir, "outside")
			if prepare == nil {
				home = filepath.Join(dir, "home/other")
			}
			if err := os.MkdirAll(home, 0o700); err != nil {
				t.Fatal(err)
			}
			if prepare != nil {
				if err := prepare(home, outside); err != nil {
					t.Fatal(err)
				}
			} else if os.Geteuid() == 0 {
				if err := os.Chown(home, uid+1, gid); err != nil {
					t.Fatal(err)
				}
			} else {
				return // this needs two users
			}
			u := User{
				Name:         "ops",
				UID:          &uid,
				PrimaryGroup: "mine",
				Home:         "/home/" + filepath.Base(home),
				Keys:         []string{"key-1"},
			}
			if err := s.Apply([]User{u}); err == nil || !strings.Contains(err.Error(), "authorized keys") {
				t.Errorf("%v", err)
			}
			if got := read1(t, dir, "outside/authorized_keys"); got != "theirs\n" {
				t.Errorf("outside: %q", got)
			}
		})
	}
}
