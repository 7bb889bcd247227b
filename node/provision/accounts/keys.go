package accounts

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/provision/tree"
)

// maxKeys bounds a file of authorized keys, and the ledger of those that the config has put there, in bytes.
const maxKeys = 4 << 20

const authorizedKeys = "authorized_keys"

// Authorize adds keys to a user's authorized_keys. What the user has there stays. Nothing is written where the home or
// .ssh is not the user's.
func (s System) Authorize(a Account, keys []string) error {
	if err := s.authorize(a, keys); err != nil {
		return fmt.Errorf("authorized keys: %w", err)
	}
	return nil
}

func (s System) authorize(a Account, keys []string) error {
	home, err := s.Root.Dir(a.Home)
	if err != nil {
		return err
	}
	defer home.Close()
	if !mayOwn(home, a) {
		return fmt.Errorf("%s belongs to the number %d", a.Home, home.UID)
	}
	if err := home.Mkdir(".ssh", 0o700, a.UID, a.GID); err != nil {
		return err
	}
	dir, err := home.Sub(".ssh")
	if err != nil {
		return err
	}
	defer dir.Close()
	lines, err := readKeys(dir, a)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	var added []string
	for _, k := range keys {
		k = strings.TrimSpace(k)
		if strings.ContainsAny(k, "\n\r") {
			return fmt.Errorf("key %.40q: want one line", k)
		}
		if k != "" && !slices.Contains(lines, k) && !slices.Contains(added, k) {
			added = append(added, k)
		}
	}
	if len(added) == 0 && !missing {
		return nil
	}
	// The ledger first: what is in the file and not in the ledger is the user's own.
	if err := s.note(a.Name, added); err != nil {
		return err
	}
	return writeKeys(dir, a, append(lines, added...))
}

// RevokeOthers takes back the keys that an earlier config gave and this one does not: wanted are a user's keys now. A
// key that a user has put there, too, before the config did, stays; and so do those of users whom keep names.
func (s System) RevokeOthers(wanted map[string][]string, keep []string) error {
	if !s.Keep || !s.Note {
		return nil
	}
	granted, err := s.granted()
	if err != nil {
		return fmt.Errorf("take back keys: %w", err)
	}
	var errs []error
	changed := false
	for name, lines := range granted {
		if slices.Contains(keep, name) {
			continue
		}
		var gone, left []string
		for _, l := range lines {
			if slices.ContainsFunc(wanted[name], func(k string) bool { return strings.TrimSpace(k) == l }) {
				left = append(left, l)
			} else {
				gone = append(gone, l)
			}
		}
		if len(gone) == 0 {
			continue
		}
		if err := s.revoke(name, gone); err != nil {
			errs = append(errs, &UserError{name, fmt.Errorf("take back keys: %w", err)})
			continue
		}
		changed = true
		if granted[name] = left; left == nil {
			delete(granted, name)
		}
	}
	if changed {
		errs = append(errs, s.writeGranted(granted))
	}
	return errors.Join(errs...)
}

// revoke removes lines from a user's authorized_keys. Where there is none, or no user, there is nothing to take back.
func (s System) revoke(name string, gone []string) error {
	a, err := Lookup(s.Root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dir, err := s.Root.Dir(path.Join(a.Home, ".ssh"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	lines, err := readKeys(dir, a)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return slices.Contains(gone, l) })
	if len(left) == len(lines) {
		return nil
	}
	return writeKeys(dir, a, left)
}

// readKeys reads the lines of authorized_keys.
func readKeys(dir *tree.Dir, a Account) ([]string, error) {
	if !mayOwn(dir, a) {
		return nil, fmt.Errorf("%s belongs to the number %d", path.Join(a.Home, ".ssh"), dir.UID)
	}
	b, err := dir.ReadFile(authorizedKeys, maxKeys)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s/.ssh/%s: %w", a.Home, authorizedKeys, tree.ErrUntrusted)
	}
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	if lines[0] == "" {
		lines = lines[1:]
	}
	return lines, nil
}

func writeKeys(dir *tree.Dir, a Account, lines []string) error {
	text := strings.Join(lines, "\n") + "\n"
	if len(lines) == 0 {
		text = ""
	}
	return dir.WriteFile(authorizedKeys, []byte(text), tree.Attr{Mode: 0o600, UID: a.UID, GID: a.GID})
}

// note adds keys to the ledger.
func (s System) note(name string, keys []string) error {
	if !s.Keep || !s.Note || len(keys) == 0 {
		return nil
	}
	granted, err := s.granted()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if !slices.Contains(granted[name], k) {
			granted[name] = append(granted[name], k)
		}
	}
	return s.writeGranted(granted)
}

func (s System) granted() (layout.Granted, error) {
	b, err := s.Root.ReadFile(layout.GrantedKeys, maxKeys)
	if errors.Is(err, fs.ErrNotExist) {
		return layout.Granted{}, nil
	}
	if err != nil {
		return nil, err
	}
	g, err := layout.ParseGranted(b)
	if err != nil {
		return layout.Granted{}, nil // damaged: nothing is taken back, and no key is refused for it
	}
	return g, nil
}

func (s System) writeGranted(g layout.Granted) error {
	return s.Root.WriteFile(layout.GrantedKeys, g.Marshal(), tree.Attr{Mode: 0o600, UID: -1, GID: -1})
}
