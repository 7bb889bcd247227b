package accounts

import (
	"errors"
	"fmt"
	"iter"
	"path"
	"strconv"

	"github.com/kairos-buildkit/kairos/layout"
)

// home is a directory in /home.
type home struct {
	name     string
	uid, gid int
}

// homes lists the directories in /home that a user owns. A link there is none.
func (s System) homes() []home {
	dir, err := s.Root.Dir("/home")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Names()
	if err != nil {
		return nil
	}
	var found []home
	for _, name := range names {
		d, err := dir.Sub(name)
		if err != nil {
			continue
		}
		found = append(found, home{name, d.UID, d.GID})
		d.Close()
	}
	return found
}

// ledger gives numbers.
type ledger struct {
	ids    layout.IDs
	taken  []home
	image  map[int]bool // the numbers of the image's users, as it has them
	before string
}

// adopt takes a node's numbers from its homes: one that was installed before there was a ledger.
func (l *ledger) adopt(db *database, homes []home) {
	l.ids = layout.IDs{Users: map[string]int{}, Groups: map[string]int{}}
	for _, h := range homes {
		if CheckName(h.name) != nil || !regular(h.uid) || l.user(h.uid) != "" {
			continue
		}
		l.ids.Users[h.name] = h.uid
		if regular(h.gid) && l.groupOf(h.gid) == "" && db.group.byID(h.gid) == nil {
			l.ids.Groups[h.name] = h.gid
		}
	}
}

func (l *ledger) changed() bool { return string(l.ids.Marshal()) != l.before }

func regular(id int) bool { return id >= layout.FirstUserID && id <= layout.LastUserID }

func (l *ledger) user(uid int) string    { return nameOf(l.ids.Users, uid) }
func (l *ledger) groupOf(gid int) string { return nameOf(l.ids.Groups, gid) }

func nameOf(m map[string]int, id int) string {
	for name, n := range m {
		if n == id {
			return name
		}
	}
	return ""
}

// homeOf returns whose home a number owns, other than that of a name.
func (l *ledger) homeOf(uid int, name string) string {
	for _, h := range l.taken {
		if h.uid == uid && h.name != name && uid != 0 {
			return h.name
		}
	}
	return ""
}

// adaptImage gives the image's own users and groups the numbers that they had in the release before. It yields
// whose number had to change.
func (l *ledger) adaptImage(db *database) iter.Seq2[string, error] {
	l.image = map[int]bool{}
	for _, u := range db.passwd.lines {
		if len(u) > 2 {
			l.image[number(u[2])] = true
		}
	}
	moved := map[string]error{}
	gids := map[string]string{}
	for _, g := range db.group.lines {
		if len(g) < 3 || !regular(number(g[2])) {
			continue
		}
		now, err := l.keep(l.ids.Groups, g[0], number(g[2]), func() int { return l.freeGID(db, layout.FirstUserID) })
		if err != nil {
			moved[g[0]] = fmt.Errorf("group: %w", err)
		}
		gids[g[2]], g[2] = strconv.Itoa(now), strconv.Itoa(now)
	}
	for _, u := range db.passwd.lines {
		if len(u) < 7 {
			continue
		}
		if gid, ok := gids[u[3]]; ok {
			u[3] = gid
		}
		if !regular(number(u[2])) {
			continue
		}
		now, err := l.keep(l.ids.Users, u[0], number(u[2]), func() int { return l.freeUID(db, layout.FirstUserID) })
		if err != nil {
			moved[u[0]] = err
		}
		u[2] = strconv.Itoa(now)
	}
	return func(yield func(string, error) bool) {
		for name, err := range moved {
			if !yield(name, err) {
				return
			}
		}
	}
}

// keep returns the number that a name of the image has on this node.
func (l *ledger) keep(ids map[string]int, name string, id int, free func() int) (int, error) {
	if kept, ok := ids[name]; ok {
		return kept, nil
	}
	if other := nameOf(ids, id); other != "" {
		now := free()
		ids[name] = now
		return now, fmt.Errorf("the image gives it the number %d, which is %s's on this node: it has %d here, "+
			"and the image's files of that number are %s's. Give it another number in the Dockerfile", id, other, now,
			other)
	}
	ids[name] = id
	return id, nil
}

func (l *ledger) freeUID(db *database, from int) int {
	for id := from; ; id++ {
		if db.passwd.byID(id) == nil && !l.image[id] && l.user(id) == "" && l.homeOf(id, "") == "" {
			return id
		}
	}
}

func (l *ledger) freeGID(db *database, from int) int {
	for id := from; ; id++ {
		if db.group.byID(id) == nil && l.groupOf(id) == "" {
			return id
		}
	}
}

// newUID chooses the number of a user that the image does not have.
func (l *ledger) newUID(db *database, u *User) (uid int, err error) {
	defer func() { l.ids.Users[u.Name] = uid }()
	kept, known := l.ids.Users[u.Name]
	if known {
		if u.UID != nil && *u.UID != kept {
			err = fmt.Errorf("uid %d: it has the number %d on this node, and keeps it", *u.UID, kept)
		}
		if other := db.passwd.byID(kept); other == nil {
			return kept, err
		}
		err = fmt.Errorf(
			"its number %d belongs to %s in this image: it has another one",
			kept,
			db.passwd.byID(kept)[0],
		)
	} else if u.UID != nil {
		other := l.homeOf(*u.UID, path.Base(u.Home))
		if p := db.passwd.byID(*u.UID); p != nil {
			other = p[0]
		} else if name := l.user(*u.UID); name != "" {
			other = name
		}
		if other == "" {
			return *u.UID, nil
		}
		err = fmt.Errorf("uid %d is %s's on this node: it has another one", *u.UID, other)
	}
	if u.System {
		for id := layout.LastSystemID; id >= layout.FirstSystemID; id-- {
			if db.passwd.byID(id) == nil && l.user(id) == "" {
				return id, err
			}
		}
		return l.freeUID(db, layout.FirstUserID), errors.Join(err, errors.New("no number below 1000 is free"))
	}
	return l.freeUID(db, layout.FirstUserID), err
}

// newGID chooses the number of a new group: want, where that is free.
func (l *ledger) newGID(db *database, name string, want int) (gid int) {
	defer func() { l.ids.Groups[name] = gid }()
	if kept, ok := l.ids.Groups[name]; ok && db.group.byID(kept) == nil {
		return kept
	}
	if want >= 0 && db.group.byID(want) == nil && l.groupOf(want) == "" {
		return want
	}
	return l.freeGID(db, layout.FirstUserID)
}
