package provision

import (
	"errors"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/node/provision/accounts"
)

// applyUsers makes the users of a config, and those that the last config has that took effect in full.
func (s *System) applyUsers(c, last *config.Config) {
	users := c.Users()
	keys := c.Keys()
	if last != nil {
		users = withLast(users, last.Users())
		keys = append(keys, last.Keys()...)
	}
	if len(keys) > 0 {
		switch {
		case len(users) > 0:
			users[0].Keys = append(slices.Clone(users[0].Keys), keys...)
		case !s.hasCloudInit(): // else they are for the user that cloud-init makes
			users = append(users, config.User{Name: "root", Keys: keys, UID: -1})
		}
	}
	remote := map[string][]string{}
	var list []accounts.User
	for _, u := range users {
		list = append(list, s.user(u, remote))
	}
	s.makeUsers(list, "users", s.noted())
	if len(c.Report().Errors) == 0 && !c.Empty() { // nobody is locked out by a mistake, or by a disk that is not there
		s.check("ssh_authorized_keys", s.noted().RevokeOthers(s.wantedKeys(list, remote)))
	}
	s.check("ssh_authorized_keys", s.noteRemote(remote))
}

// noted is the system where keys are noted as the config's: those of its users, and not those of a stage, which come
// again when it runs.
func (s *System) noted() accounts.System {
	a := s.accounts()
	a.Note = true
	return a
}

// wantedKeys are the keys of the config by the users' names, and the users of whom some are still to be fetched.
func (s *System) wantedKeys(list []accounts.User, remote map[string][]string) (wanted map[string][]string,
	waiting []string) {
	wanted = map[string][]string{}
	for _, u := range list {
		wanted[u.Name] = append(wanted[u.Name], u.Keys...)
	}
	for name, keys := range remote {
		if slices.ContainsFunc(keys, func(k string) bool { return !s.exists(keyFile(k)) }) {
			waiting = append(waiting, name)
		}
	}
	return wanted, waiting
}

// makeUsers makes accounts, and notes what went wrong with them.
func (s *System) makeUsers(list []accounts.User, path string, in accounts.System) {
	if len(list) == 0 {
		return
	}
	err := in.Apply(list)
	if err == nil {
		return
	}
	errs := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		errs = many.Unwrap()
	}
	for _, err := range errs {
		var one *accounts.UserError
		if errors.As(err, &one) {
			s.problem(config.Pos{}, path, "%v", one)
			continue
		}
		s.problem(config.Pos{}, path, "%v", err)
	}
}

// withLast adds to users what an earlier config has: users, and keys and a password where there is none.
func withLast(users, last []config.User) []config.User {
	for _, old := range last {
		i := slices.IndexFunc(users, func(u config.User) bool { return u.Name == old.Name })
		if i < 0 {
			users = append(users, old)
			continue
		}
		users[i].Keys = append(slices.Clone(users[i].Keys), old.Keys...)
		if users[i].Passwd == "" {
			users[i].Passwd = old.Passwd
		}
		for _, l := range []struct{ to, from *[]string }{
			{&users[i].Groups, &old.Groups},
			{&users[i].Sudo, &old.Sudo},
		} {
			if len(*l.to) == 0 {
				*l.to = *l.from
			}
		}
	}
	return users
}

// user is a config's user as package accounts has it. Keys to fetch are noted in remote, and what was fetched
// before is used.
func (s *System) user(u config.User, remote map[string][]string) accounts.User {
	out := accounts.User{
		Name: u.Name, Gecos: u.Gecos, Home: u.Home, Shell: u.Shell, PrimaryGroup: u.PrimaryGroup, Groups: u.Groups,
		Password: u.Passwd, Lock: u.LockPasswd != nil && *u.LockPasswd, Sudo: u.Sudo,
		NoCreateHome: u.NoCreateHome, System: u.System,
	}
	if u.UID >= 0 {
		out.UID = &u.UID
	}
	if u.Passwd != "" {
		if hash, err := accounts.Hash(u.Passwd, s.keptHashes()[u.Name]); err == nil { // else package accounts says why
			out.Password, s.hashes[u.Name] = hash, hash
		}
	}
	if u.NoGroup && out.PrimaryGroup == "" {
		out.PrimaryGroup = "users" // as useradd(8) has it without a group for each user
	}
	if out.Shell == "" && s.exists("/bin/bash") && !u.System {
		if _, err := accounts.Lookup(s.root, u.Name); err != nil {
			out.Shell = "/bin/bash"
		}
	}
	out.Keys = s.keys(u.Name, u.Keys, remote)
	return out
}

// keptHashes are those of the passwords in the config that was kept, by the users' names.
func (s *System) keptHashes() map[string]string {
	if s.hashes == nil {
		s.hashes, s.kept = map[string]string{}, map[string]string{}
		if c := s.keptConfig(); c != nil {
			for _, u := range c.Users() {
				s.kept[u.Name] = u.Passwd
			}
		}
	}
	return s.kept
}

// keys splits keys into lines of authorized_keys and those to fetch.
func (s *System) keys(user string, all []string, remote map[string][]string) (lines []string) {
	for _, k := range all {
		if _, _, ok := remoteKey(k); !ok {
			lines = append(lines, k)
			continue
		}
		if remote != nil && !slices.Contains(remote[user], k) {
			remote[user] = append(remote[user], k)
		}
		if b, err := s.root.ReadFile(keyFile(k), maxRemoteKeys); err == nil {
			lines = append(lines, strings.Split(strings.TrimSpace(string(b)), "\n")...)
		}
	}
	return lines
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'" }
