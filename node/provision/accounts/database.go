package accounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/node/provision/tree"
)

// maxTable bounds an account file, in bytes.
const maxTable = 16 << 20

// table is a file like /etc/passwd: lines of fields. A line that is none is kept as it is.
type table struct {
	name   string
	lines  [][]string
	before string
	there  bool
}

func (t *table) find(name string) []string {
	for _, l := range t.lines {
		if l[0] == name {
			return l
		}
	}
	return nil
}

// byID finds the line whose third field is a number.
func (t *table) byID(id int) []string {
	for _, l := range t.lines {
		if len(l) > 2 && number(l[2]) == id {
			return l
		}
	}
	return nil
}

func (t *table) text() string {
	var b strings.Builder
	for _, l := range t.lines {
		b.WriteString(strings.Join(l, ":") + "\n")
	}
	return b.String()
}

// number is a number of digits, or -1.
func number(s string) int {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return -1
	}
	return int(n)
}

// database is the four files, and their lock.
type database struct {
	etc                            *tree.Dir
	lock                           *os.File
	passwd, shadow, group, gshadow *table
}

// tables are in the order to write them: a user's group is there before the user.
func (db *database) tables() []*table { return []*table{db.group, db.gshadow, db.passwd, db.shadow} }

// read reads the files without their lock: each is replaced as a whole.
func read(root *tree.Root) (*database, error) {
	etc, err := root.Dir("/etc")
	if err != nil {
		return nil, err
	}
	defer etc.Close()
	db := &database{etc: etc}
	return db, db.load()
}

// open reads the files under the lock that useradd(8) and passwd(1) take: lckpwdf(3).
func open(root *tree.Root) (_ *database, err error) {
	etc, err := root.MkdirAll("/etc", 0o755)
	if err != nil {
		return nil, err
	}
	db := &database{etc: etc}
	defer func() {
		if err != nil {
			db.close()
		}
	}()
	if db.lock, err = etc.OpenLock(".pwd.lock"); err != nil {
		return nil, err
	}
	what := unix.Flock_t{Type: unix.F_WRLCK}
	for left := 150; ; left-- { // 15 seconds, as lckpwdf(3)
		err := unix.FcntlFlock(db.lock.Fd(), unix.F_OFD_SETLK, &what)
		if err == nil {
			break
		}
		if left == 0 || !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return nil, fmt.Errorf("lock the account files: %w", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return db, db.load()
}

func (db *database) load() error {
	for name, t := range map[string]**table{
		"passwd": &db.passwd, "shadow": &db.shadow, "group": &db.group, "gshadow": &db.gshadow,
	} {
		*t = &table{name: name}
		b, err := db.etc.ReadFile(name, maxTable)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		(*t).before, (*t).there = string(b), true
		for line := range strings.Lines(string(b)) {
			(*t).lines = append((*t).lines, strings.Split(strings.TrimSuffix(line, "\n"), ":"))
		}
	}
	return nil
}

func (db *database) close() {
	if db.lock != nil {
		db.lock.Close()
	}
	db.etc.Close()
}

// commit writes what has changed: all of it is on the file system before the first file gets its name.
func (db *database) commit() (err error) {
	var pending []*tree.Pending
	defer func() {
		for _, p := range pending {
			p.Discard()
		}
	}()
	for _, t := range db.tables() {
		text := t.text()
		if text == t.before || t == db.gshadow && !t.there {
			continue
		}
		p, err := db.prepare(t, text)
		if err != nil {
			return err
		}
		pending = append(pending, p)
	}
	for len(pending) > 0 {
		p := pending[0]
		pending = pending[1:]
		if err := p.Commit(); err != nil {
			return err
		}
	}
	return nil
}

func (db *database) prepare(t *table, text string) (*tree.Pending, error) {
	if t.there {
		old, err := db.etc.Open(t.name)
		if err != nil {
			return nil, err
		}
		defer old.Close()
		return db.etc.Prepare(t.name, []byte(text), tree.Attr{Like: old})
	}
	mode := fs.FileMode(0o644)
	if t == db.shadow {
		mode = 0o600
	}
	return db.etc.Prepare(t.name, []byte(text), tree.Attr{Mode: mode, UID: -1, GID: -1})
}

// user returns a user's line.
func (db *database) user(name string) (Account, error) {
	l := db.passwd.find(name)
	if l == nil {
		return Account{}, fmt.Errorf("no such user: %w", fs.ErrNotExist)
	}
	if len(l) < 7 || number(l[2]) < 0 || number(l[3]) < 0 {
		return Account{}, errors.New("its line in /etc/passwd is damaged")
	}
	return Account{Name: name, UID: number(l[2]), GID: number(l[3]), Home: l[5]}, nil
}

// join makes a user a member of a group.
func (db *database) join(user, group string) {
	for t, field := range map[*table]int{db.group: 3, db.gshadow: 3} {
		l := t.find(group)
		if len(l) <= field {
			continue
		}
		members := strings.FieldsFunc(l[field], func(r rune) bool { return r == ',' })
		if !slices.Contains(members, user) {
			l[field] = strings.Join(append(members, user), ",")
		}
	}
}
