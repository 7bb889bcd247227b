package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// user is an entry of "users:" in a cloud-config.
type user struct {
	Name         string   `yaml:"name"`
	Gecos        string   `yaml:"gecos"`
	UID          string   `yaml:"uid"`
	Home         string   `yaml:"homedir"`
	Shell        string   `yaml:"shell"`
	PrimaryGroup string   `yaml:"primary_group"`
	Groups       wordList `yaml:"groups"`
	Passwd       string   `yaml:"passwd"`        // a hash
	HashedPasswd string   `yaml:"hashed_passwd"` // the same
	PlainPasswd  string   `yaml:"plain_text_passwd"`
	LockPasswd   *bool    `yaml:"lock_passwd"`
	Keys         []string `yaml:"ssh_authorized_keys"`
	Sudo         wordList `yaml:"sudo"`
	NoCreateHome bool     `yaml:"no_create_home"`
	System       bool     `yaml:"system"`
}

// wordList is a list, or words in one string with commas between them.
type wordList []string

func (l *wordList) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return n.Decode((*[]string)(l))
	}
	if n.Tag == "!!null" || n.Tag == "!!bool" {
		return nil // `sudo: false`
	}
	for w := range strings.SplitSeq(n.Value, ",") {
		*l = append(*l, strings.TrimSpace(w))
	}
	return nil
}

// table is a file like /etc/passwd: lines of fields.
type table struct {
	path  string
	lines [][]string
	mode  fs.FileMode
}

func readTable(root, name string, mode fs.FileMode) (*table, error) {
	t := &table{path: filepath.Join(root, name), mode: mode}
	b, err := os.ReadFile(t.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		t.lines = append(t.lines, strings.Split(strings.TrimSuffix(line, "\n"), ":"))
	}
	return t, nil
}

func (t *table) find(name string) []string {
	for _, l := range t.lines {
		if l[0] == name {
			return l
		}
	}
	return nil
}

// freeID returns a number that the third field of no line has.
func (t *table) freeID(from int) int {
	for id := from; ; id++ {
		if !slices.ContainsFunc(t.lines, func(l []string) bool { return len(l) > 2 && l[2] == strconv.Itoa(id) }) {
			return id
		}
	}
}

func (t *table) write() error {
	var b strings.Builder
	for _, l := range t.lines {
		b.WriteString(strings.Join(l, ":") + "\n")
	}
	old, err := os.Stat(t.path)
	if err == nil {
		t.mode = old.Mode().Perm()
	}
	return replaceFile(t.path, []byte(b.String()), t.mode)
}

// accounts are the system's user and group files.
type accounts struct{ passwd, shadow, group *table }

func readAccounts(root string) (a accounts, err error) {
	if a.passwd, err = readTable(root, "etc/passwd", 0o644); err != nil {
		return a, err
	}
	if a.shadow, err = readTable(root, "etc/shadow", 0o600); err != nil {
		return a, err
	}
	a.group, err = readTable(root, "etc/group", 0o644)
	return a, err
}

// addUsers makes the users, and gives keys to them and to the first one.
func (c cloudConfig) addUsers(root string) error {
	if len(c.Users) == 0 && len(c.Keys) == 0 {
		return nil
	}
	a, err := readAccounts(root)
	if err != nil {
		return fmt.Errorf("users: %w", err)
	}
	var errs []error
	var users []user
	for _, n := range c.Users {
		u := user{Name: n.Value}
		if n.Kind != yaml.ScalarNode {
			if err := n.Decode(&u); err != nil {
				errs = append(errs, fmt.Errorf("users: line %d: %w", n.Line, err))
				continue
			}
		}
		if u.Name == "default" {
			continue // of cloud-init; an image without it has none
		}
		if strings.Trim(u.Name, "abcdefghijklmnopqrstuvwxyz0123456789_-.") != "" || u.Name == "" {
			errs = append(errs, fmt.Errorf("users: name %q: want small letters, digits, _, - and .", u.Name))
			continue
		}
		if len(users) == 0 {
			u.Keys = append(u.Keys, c.Keys...)
		}
		a.add(&u)
		users = append(users, u)
	}
	if len(users) == 0 && len(c.Keys) > 0 {
		users = append(users, user{Name: "root", Keys: c.Keys})
	}
	for _, t := range []*table{a.group, a.passwd, a.shadow} {
		if err := t.write(); err != nil {
			return errors.Join(append(errs, fmt.Errorf("users: %w", err))...)
		}
	}
	for _, u := range users {
		if err := u.setUp(root, a); err != nil {
			errs = append(errs, fmt.Errorf("user %s: %w", u.Name, err))
		}
	}
	return errors.Join(errs...)
}

// add brings a user into the tables. One that is there keeps what the config does not say.
func (a accounts) add(u *user) {
	line := a.passwd.find(u.Name)
	if line == nil {
		first := 1000
		if u.System {
			first = 100
		}
		uid, err := strconv.Atoi(u.UID)
		if err != nil {
			uid = a.passwd.freeID(first)
		}
		gid := ""
		if g := a.group.find(u.PrimaryGroup); u.PrimaryGroup != "" && g != nil {
			gid = g[2]
		} else {
			gid = strconv.Itoa(a.group.freeID(uid))
			a.group.lines = append(a.group.lines, []string{u.Name, "x", gid, ""})
		}
		if u.Home == "" {
			u.Home = "/home/" + u.Name
		}
		if u.Shell == "" {
			u.Shell = "/bin/sh"
		}
		line = []string{u.Name, "x", strconv.Itoa(uid), gid, strings.ReplaceAll(u.Gecos, ":", ""), u.Home, u.Shell}
		a.passwd.lines = append(a.passwd.lines, line)
	} else if u.Shell != "" && len(line) > 6 {
		line[6] = u.Shell
	}
	hash := u.Passwd
	if u.HashedPasswd != "" {
		hash = u.HashedPasswd
	}
	if strings.ContainsAny(hash, ":\n") {
		hash = ""
	}
	shadow := a.shadow.find(u.Name)
	if shadow == nil {
		shadow = []string{u.Name, "!", "19000", "0", "99999", "7", "", "", ""}
		a.shadow.lines = append(a.shadow.lines, shadow)
	}
	switch {
	case hash != "" && u.LockPasswd != nil && *u.LockPasswd:
		shadow[1] = "!" + hash
	case hash != "":
		shadow[1] = hash
	}
	for _, name := range u.Groups {
		g := a.group.find(name)
		if g == nil {
			g = []string{name, "x", strconv.Itoa(a.group.freeID(1000)), ""}
			a.group.lines = append(a.group.lines, g)
		}
		members := strings.FieldsFunc(g[3], func(r rune) bool { return r == ',' })
		if !slices.Contains(members, u.Name) {
			g[3] = strings.Join(append(members, u.Name), ",")
		}
	}
}

// setUp makes what a user has outside of the tables.
func (u user) setUp(root string, a accounts) error {
	line := a.passwd.find(u.Name)
	if len(line) < 7 {
		return errors.New("its line in /etc/passwd is damaged")
	}
	uid, err1 := strconv.Atoi(line[2])
	gid, err2 := strconv.Atoi(line[3])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	home := filepath.Join(root, line[5])
	if _, err := os.Stat(home); err != nil && !u.NoCreateHome {
		if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(home, 0o700); err != nil {
			return err
		}
		if err := os.Chown(home, uid, gid); err != nil {
			return err
		}
	}
	if len(u.Keys) > 0 {
		if err := authorize(home, uid, gid, u.Keys); err != nil {
			return err
		}
	}
	if len(u.Sudo) > 0 {
		dir := filepath.Join(root, "etc/sudoers.d")
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
		text := ""
		for _, rule := range u.Sudo {
			text += u.Name + " " + strings.ReplaceAll(rule, "\n", " ") + "\n"
		}
		if err := replaceFile(filepath.Join(dir, "90-kairos-"+strings.ReplaceAll(u.Name, ".", "-")), []byte(text), 0o440); err != nil {
			return err
		}
	}
	if u.PlainPasswd != "" {
		c := exec.Command("chpasswd")
		if root != "/" {
			c.Args = append(c.Args, "-R", root)
		}
		c.Stdin = strings.NewReader(u.Name + ":" + u.PlainPasswd + "\n")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("chpasswd: %w: %s", err, out)
		}
	}
	return nil
}

// authorize adds keys to a user's authorized_keys.
func authorize(home string, uid, gid int, keys []string) error {
	dir := filepath.Join(home, ".ssh")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, "authorized_keys")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	have := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	for _, k := range keys {
		if k = strings.TrimSpace(k); !slices.Contains(have, k) {
			have = append(have, k)
		}
	}
	if err := replaceFile(path, []byte(strings.TrimLeft(strings.Join(have, "\n"), "\n")+"\n"), 0o600); err != nil {
		return err
	}
	return errors.Join(os.Chown(dir, uid, gid), os.Chown(path, uid, gid))
}

// owner resolves "user:group".
func owner(root, s string) (uid, gid int, err error) {
	a, err := readAccounts(root)
	if err != nil {
		return 0, 0, err
	}
	name, group, _ := strings.Cut(s, ":")
	line := a.passwd.find(name)
	if len(line) < 4 {
		return 0, 0, fmt.Errorf("owner %q: no such user", s)
	}
	if uid, err = strconv.Atoi(line[2]); err != nil {
		return 0, 0, err
	}
	if group == "" {
		gid, err = strconv.Atoi(line[3])
		return uid, gid, err
	}
	g := a.group.find(group)
	if len(g) < 3 {
		return 0, 0, fmt.Errorf("owner %q: no such group", s)
	}
	gid, err = strconv.Atoi(g[2])
	return uid, gid, err
}
