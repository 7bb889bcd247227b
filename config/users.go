package config

import (
	"slices"
	"strconv"
)

// User is an account.
type User struct {
	Pos  Pos
	Name string
	// Passwd is plain, or a hash as crypt(5) has them; "" where the config gives none.
	Passwd string
	// LockPasswd is nil where the config does not say it.
	LockPasswd            *bool
	Keys                  []string // as in the config: github:NAME, too
	Groups                []string
	PrimaryGroup          string
	UID                   int // -1 where the config does not say it
	Gecos, Home, Shell    string
	NoCreateHome, NoGroup bool
	System                bool
	Sudo                  []string
}

// DefaultUser is not a name: it stands for the one that the configuration of the image's cloud-init has.
const DefaultUser = "default"

// Users returns users:, one for each name, in the order of their first entries. cloud-init's user "default" is left
// out.
func (c *Config) Users() []User {
	var users []User
	for _, v := range c.top().Key("users").Items() {
		u := ParseUser(v.Key("name").Text(), v)
		if u.Name == "" || u.Name == DefaultUser {
			continue
		}
		if i := slices.IndexFunc(users, func(o User) bool { return o.Name == u.Name }); i >= 0 {
			users[i] = users[i].over(u)
			continue
		}
		users = append(users, u)
	}
	return users
}

// Keys returns ssh_authorized_keys: at the top, which are for the first user, or for root.
func (c *Config) Keys() []string { return c.top().Key("ssh_authorized_keys").Strings() }

// ParseUser reads an account of users:, or of a stage's users, which has the name outside.
func ParseUser(name string, v *Value) User {
	u := User{
		Pos: v.Pos(), Name: name, Keys: v.Key("ssh_authorized_keys").Strings(), Groups: v.Key("groups").Strings(),
		PrimaryGroup: v.Key("primary_group").
			Text(),
		UID: -1, Gecos: v.Key("gecos").Text(), Home: v.Key("homedir").Text(),
		Shell: v.Key("shell").
			Text(),
		NoCreateHome: v.Key("no_create_home").Bool(), NoGroup: v.Key("no_user_group").Bool(),
		System: v.Key("system").Bool(), Sudo: v.Key("sudo").Strings(),
	}
	for _, k := range []string{"plain_text_passwd", "passwd", "hashed_passwd"} {
		if p := v.Key(k).Text(); p != "" {
			u.Passwd = p
		}
	}
	if v.Key("lock_passwd").IsScalar() {
		lock := v.Key("lock_passwd").Bool()
		u.LockPasswd = &lock
	}
	if v.Key("uid").IsScalar() {
		if id, err := strconv.Atoi(v.Key("uid").Text()); err == nil {
			u.UID = id
		}
	}
	return u
}

// over puts a later entry over an earlier one of the same name.
func (u User) over(o User) User {
	for _, s := range []struct{ to, from *string }{
		{&u.Passwd, &o.Passwd}, {&u.PrimaryGroup, &o.PrimaryGroup}, {&u.Gecos, &o.Gecos}, {&u.Home, &o.Home},
		{&u.Shell, &o.Shell},
	} {
		if *s.from != "" {
			*s.to = *s.from
		}
	}
	if o.LockPasswd != nil {
		u.LockPasswd = o.LockPasswd
	}
	if o.UID >= 0 {
		u.UID = o.UID
	}
	u.NoCreateHome, u.NoGroup, u.System = u.NoCreateHome ||
		o.NoCreateHome, u.NoGroup ||
		o.NoGroup, u.System ||
		o.System
	u.Keys, u.Groups, u.Sudo = union(u.Keys, o.Keys), union(u.Groups, o.Groups), union(u.Sudo, o.Sudo)
	return u
}

func union(a, b []string) []string {
	all := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}
