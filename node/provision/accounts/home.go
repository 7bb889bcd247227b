package accounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/kairos-buildkit/kairos/node/provision/tree"
)

// makeHome makes a user's home with what /etc/skel has.
func (s System) makeHome(a Account) error {
	if d, err := s.Root.Dir(a.Home); err == nil {
		defer d.Close()
		if d.UID != a.UID && d.UID != 0 && d.UID != os.Geteuid() {
			return fmt.Errorf(
				"home %s belongs to the number %d: give it to %d (chown) or name another one",
				a.Home,
				d.UID,
				a.UID,
			)
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("home: %w", err)
	}
	above, name, err := s.Root.Parent(a.Home)
	if err != nil {
		return fmt.Errorf("home: %w", err)
	}
	defer above.Close()
	if err := above.Mkdir(name, 0o700, a.UID, a.GID); err != nil {
		return fmt.Errorf("home: %w", err)
	}
	d, err := above.Sub(name)
	if err != nil {
		return fmt.Errorf("home: %w", err)
	}
	defer d.Close()
	skel, err := s.Root.Dir("/etc/skel")
	if err != nil {
		return nil
	}
	defer skel.Close()
	if err := copySkel(skel, d, a); err != nil {
		return fmt.Errorf("home: %w", err)
	}
	return nil
}

// copySkel copies regular files, and what is in directories.
func copySkel(from, to *tree.Dir, a Account) error {
	names, err := from.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if sub, err := from.Sub(name); err == nil {
			err := to.Mkdir(name, 0o755, a.UID, a.GID)
			var into *tree.Dir
			if err == nil {
				into, err = to.Sub(name)
			}
			if err == nil {
				err = copySkel(sub, into, a)
				into.Close()
			}
			sub.Close()
			if err != nil {
				return err
			}
			continue
		}
		b, err := from.ReadFile(name, 1<<20)
		if err != nil {
			continue // a link or a device: no business of a new home
		}
		if err := to.WriteFile(name, b, tree.Attr{Mode: 0o644, UID: a.UID, GID: a.GID}); err != nil {
			return err
		}
	}
	return nil
}

// mayOwn says whether a directory is a user's, or root's.
func mayOwn(d *tree.Dir, a Account) bool {
	return d.UID == a.UID || d.UID == 0 || d.UID == os.Geteuid()
}
