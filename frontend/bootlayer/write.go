package bootlayer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
)

// Write puts the layer's files below root. What is at a file's path is replaced, links
// there are not followed. Folders keep their mode and owner.
func (l *Layer) Write(root *os.Root) error {
	above := map[string]bool{}
	for _, f := range l.Files {
		if err := write(root, f); err != nil {
			return fmt.Errorf("write /%s: %w", f.Path, err)
		}
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			above[dir] = true
		}
	}
	// Last, for each file written changes the time of its folder.
	for dir := range above {
		if err := root.Chtimes(dir, Time, Time); err != nil {
			return fmt.Errorf("set the time of /%s: %w", dir, err)
		}
	}
	return nil
}

func write(root *os.Root, f File) error {
	if err := root.MkdirAll(path.Dir(f.Path), 0o755); err != nil {
		return err
	}
	if f.Removed {
		if err := root.Remove(f.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if f.Mode.IsDir() {
		if err := root.Mkdir(f.Path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := root.Chmod(f.Path, f.Mode); err != nil {
			return err
		}
		return root.Chtimes(f.Path, Time, Time)
	}
	if f.Link != "" {
		// A link that is there already with this target stays, so that it is not in the layer.
		if old, err := root.Readlink(f.Path); err == nil && old == f.Link {
			return nil
		}
	}
	if err := root.Remove(f.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if f.Link != "" {
		if err := root.Symlink(f.Link, f.Path); err != nil {
			return err
		}
		return setLinkTime(root, f.Path)
	}
	if err := root.WriteFile(f.Path, f.Data, 0o600); err != nil {
		return err
	}
	// Not by the mode above: that one is subject to the umask.
	if err := root.Chmod(f.Path, f.Mode.Perm()); err != nil {
		return err
	}
	return root.Chtimes(f.Path, Time, Time)
}

// above returns the folders above the layer's files, each before what is in it, but for those that are in
// the layer themselves.
func (l *Layer) above() []string {
	var dirs []string
	own := map[string]bool{}
	for _, f := range l.Files {
		own[f.Path] = f.Mode.IsDir()
	}
	for _, f := range l.Files {
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			if !own[dir] {
				dirs = append(dirs, dir)
			}
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}
