// Package accounts brings a cloud-config's users into a system: passwd(5), shadow(5), group(5) and gshadow as one
// change, homes, keys, sudo rules.
//
// Numbers never move. A ledger on PERSISTENT has the number of each user and group that the node has seen; a release
// whose image numbers its own users otherwise is adapted to it, and nobody is given a number that owns another's home.
package accounts

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/provision/tree"
)

// User is a user as a config has it. What is empty stays as it is, where the user is there.
type User struct {
	Name         string
	Gecos        string
	UID          *int
	Home         string
	Shell        string
	PrimaryGroup string
	Groups       []string
	// Password is plain or a hash of crypt(5); a plain one is hashed.
	Password string
	// Plain says that Password is plain even where it looks like a hash.
	Plain bool
	// Lock keeps the user from logging in with a password.
	Lock         bool
	Keys         []string // lines of authorized_keys
	Sudo         []string // rules of sudoers(5) without the user's name
	NoCreateHome bool
	System       bool
}

// System is the system whose users are changed.
type System struct {
	Root *tree.Root
	// Keep says that PERSISTENT is there, and so the ledger.
	Keep bool
	// Note has keys that are authorized be noted as the config's, so that [System.RevokeOthers] takes them back.
	Note    bool
	Sudoers Sudoers
}

// UserError is what is wrong with one user. The others are not concerned.
type UserError struct {
	User string
	Err  error
}

func (e *UserError) Error() string { return "user " + e.User + ": " + e.Err.Error() }

func (e *UserError) Unwrap() error { return e.Err }

// nameFormat is useradd(8)'s, and dots.
var nameFormat = regexp.MustCompile(`^[a-z_][a-z0-9_.-]{0,31}$`)

// CheckName says what is wrong with the name of a user or a group.
func CheckName(name string) error {
	if !nameFormat.MatchString(name) {
		return fmt.Errorf("name %q: want at most 32 small letters, digits, _, - and ., not a digit first", name)
	}
	return nil
}

// Apply makes the users. The error joins a *[UserError] for each one that could not have all that was asked for, and
// what went wrong with all of them.
func (s System) Apply(users []User) error {
	var errs []error
	fail := func(name string, err error) {
		if err != nil {
			errs = append(errs, &UserError{name, err})
		}
	}
	db, err := open(s.Root)
	if err != nil {
		return fmt.Errorf("users: %w", err)
	}
	defer db.close()
	ids, err := s.readIDs(db)
	if err != nil {
		errs = append(errs, err) // as if it were a new node, but nothing is forgotten: homes are looked at
	}
	for name, err := range ids.adaptImage(db) {
		fail(name, err)
	}
	var added []User
	for _, u := range users {
		if err := u.check(); err != nil {
			fail(u.Name, err)
			continue
		}
		for _, err := range db.add(&u, ids) {
			fail(u.Name, err)
		}
		added = append(added, u)
	}
	// The ledger first: a number that somebody has must be known.
	if s.Keep && ids.changed() {
		if err := s.writeIDs(ids); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	if err := db.commit(); err != nil {
		return errors.Join(append(errs, fmt.Errorf("users: %w", err))...)
	}
	var admins []string
	for _, u := range added {
		fail(u.Name, s.setUp(db, u))
		admins = append(admins, adminGroups(u)...)
	}
	if err := s.allowAdmins(admins); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (u User) check() error {
	if err := CheckName(u.Name); err != nil {
		return err
	}
	for _, g := range u.Groups {
		if err := CheckName(g); err != nil {
			return fmt.Errorf("group %w", err)
		}
	}
	if u.PrimaryGroup != "" {
		if err := CheckName(u.PrimaryGroup); err != nil {
			return fmt.Errorf("primary group %w", err)
		}
	}
	for what, p := range map[string]string{"home": u.Home, "shell": u.Shell} {
		if p != "" && (!path.IsAbs(p) || strings.ContainsAny(p, ":\n")) {
			return fmt.Errorf("%s %q: want an absolute path without a colon", what, p)
		}
	}
	if u.UID != nil && (*u.UID < 0 || *u.UID > 1<<31-2) {
		return fmt.Errorf("uid %d: want a number from 0", *u.UID)
	}
	if !u.Plain && strings.ContainsAny(u.Password, "\n") {
		return errors.New("password: it has a line break")
	}
	return nil
}

// setUp makes what a user has outside of the account files.
func (s System) setUp(db *database, u User) error {
	p, err := db.user(u.Name)
	if err != nil {
		return err
	}
	var errs []error
	if !u.NoCreateHome {
		errs = append(errs, s.makeHome(p))
	}
	if len(u.Keys) > 0 {
		errs = append(errs, s.Authorize(p, u.Keys))
	}
	if len(u.Sudo) > 0 {
		errs = append(errs, s.allow(u))
	}
	return errors.Join(errs...)
}

// Account is a user as the account files have it.
type Account struct {
	Name     string
	UID, GID int
	Home     string
}

// Lookup finds a user of the system: [fs.ErrNotExist] where there is none.
func Lookup(root *tree.Root, name string) (Account, error) {
	db, err := read(root)
	if err != nil {
		return Account{}, err
	}
	return db.user(name)
}

// Owner resolves "user", "user:group" or ":group", each a name or a number. What is not named is -1.
func Owner(root *tree.Root, s string) (uid, gid int, err error) {
	db, err := read(root)
	if err != nil {
		return -1, -1, err
	}
	user, group, _ := strings.Cut(s, ":")
	uid, gid = -1, -1
	if user != "" {
		if uid = number(user); uid < 0 {
			a, err := db.user(user)
			if err != nil {
				return -1, -1, fmt.Errorf("owner %q: %w", s, err)
			}
			uid, gid = a.UID, a.GID
		}
	}
	if group != "" {
		if gid = number(group); gid < 0 {
			l := db.group.find(group)
			if len(l) < 3 {
				return -1, -1, fmt.Errorf("owner %q: no such group: %w", s, fs.ErrNotExist)
			}
			gid = number(l[2])
		}
	}
	return uid, gid, nil
}

func (s System) readIDs(db *database) (*ledger, error) {
	l := &ledger{taken: s.homes()}
	if !s.Keep {
		l.ids, _ = layout.ParseIDs([]byte("{}"))
		return l, nil
	}
	b, err := s.Root.ReadFile(layout.AccountIDs, 16<<20)
	if err == nil {
		l.ids, err = layout.ParseIDs(b)
	}
	if err != nil {
		l.adopt(db, l.taken)
		if errors.Is(err, fs.ErrNotExist) {
			return l, nil
		}
		return l, fmt.Errorf("the users' numbers: %w", err)
	}
	l.before = string(b)
	return l, nil
}

func (s System) writeIDs(l *ledger) error {
	err := s.Root.WriteFile(layout.AccountIDs, l.ids.Marshal(), tree.Attr{Mode: 0o600, UID: -1, GID: -1})
	if err != nil {
		return fmt.Errorf("the users' numbers: %w", err)
	}
	return nil
}
