package accounts

import (
	"strconv"
	"strings"
)

// adminGID is the number of the group admin in the Kairos project's images.
const adminGID = 900

// add brings a user into the tables. One that is there keeps what the config does not say.
func (db *database) add(u *User, ids *ledger) (errs []error) {
	line := db.passwd.find(u.Name)
	if len(line) < 7 {
		line, errs = db.newUser(u, ids)
	} else {
		if u.Shell != "" {
			line[6] = u.Shell
		}
		if u.Home != "" {
			line[5] = u.Home
		}
		if u.Gecos != "" {
			line[4] = gecos(u.Gecos)
		}
		if u.UID != nil && strconv.Itoa(*u.UID) != line[2] {
			errs = append(errs, &movedError{*u.UID, line[2]})
		}
		if u.PrimaryGroup != "" {
			line[3] = db.ensureGroup(u.PrimaryGroup, -1, ids)
		}
	}
	if err := db.setPassword(u, line); err != nil {
		errs = append(errs, err)
	}
	for _, name := range u.Groups {
		want := -1
		if name == "admin" {
			want = adminGID
		}
		db.ensureGroup(name, want, ids)
		db.join(u.Name, name)
	}
	return errs
}

// movedError says that a number stays what it is.
type movedError struct {
	want int
	has  string
}

func (e *movedError) Error() string {
	return "uid " + strconv.Itoa(e.want) + ": it has the number " + e.has + " on this node, and keeps it"
}

func (db *database) newUser(u *User, ids *ledger) (line []string, errs []error) {
	home := u.Home
	if home == "" {
		home = "/home/" + u.Name
		u.Home = home
	}
	uid, err := ids.newUID(db, u)
	if err != nil {
		errs = append(errs, err)
	}
	group, want := u.PrimaryGroup, -1
	if group == "" {
		group, want = u.Name, uid
	}
	gid := db.ensureGroup(group, want, ids)
	shell := u.Shell
	if shell == "" {
		shell = "/bin/sh"
	}
	line = []string{u.Name, "x", strconv.Itoa(uid), gid, gecos(u.Gecos), home, shell}
	for i, l := range db.passwd.lines { // a damaged one
		if l[0] == u.Name {
			db.passwd.lines[i] = line
			return line, errs
		}
	}
	db.passwd.lines = append(db.passwd.lines, line)
	return line, errs
}

func gecos(s string) string { return strings.NewReplacer(":", " ", "\n", " ", "\r", " ").Replace(s) }

// ensureGroup returns the number of a group, made where it is missing with the number that is wanted, if that is free.
func (db *database) ensureGroup(name string, want int, ids *ledger) string {
	if g := db.group.find(name); len(g) > 2 {
		return g[2]
	}
	gid := strconv.Itoa(ids.newGID(db, name, want))
	db.group.lines = append(db.group.lines, []string{name, "x", gid, ""})
	db.gshadow.lines = append(db.gshadow.lines, []string{name, "!", "", ""})
	return gid
}

// setPassword brings a user's password into its line of /etc/shadow.
func (db *database) setPassword(u *User, passwd []string) error {
	line := db.shadow.find(u.Name)
	if len(line) < 9 {
		// No date of the last change: the password does not get old. "*" is no password, and unlike "!" no lock: sshd
		// without PAM lets a locked user in with no key either.
		line = []string{u.Name, "*", "", "0", "99999", "7", "", "", ""}
		db.shadow.lines = append(db.shadow.lines, line)
	}
	passwd[1] = "x"
	if u.Password != "" {
		hash, err := hashed(u.Password, u.Plain)
		if err != nil {
			return err
		}
		line[1] = hash
	}
	switch {
	case u.Lock && len(u.Keys) > 0:
		line[1] = "*"
	case u.Lock && !strings.HasPrefix(line[1], "!") && line[1] != "*":
		line[1] = "!" + line[1]
	}
	return nil
}
