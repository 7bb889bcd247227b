package policy

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/mount"
	"github.com/kairos-buildkit/kairos/layout"
)

// kept is a folder that is kept.
type kept struct {
	path string // as the policy has it
	at   string // where that is in the root
}

// mountPersistent mounts PERSISTENT, and the paths that are kept on it.
func (p *policy) mountPersistent(paths []string) error {
	if err := p.openPersistent(); err != nil {
		return err
	}
	local, state := persistentDir, persistentDir+strings.TrimPrefix(layout.PersistentState, layout.MountPersistent)
	work := filepath.Join(state, ".work")
	// What is in it may be below folders that not everybody enters. A full PERSISTENT keeps no node from starting.
	if err := errors.Join(os.MkdirAll(work, 0o755), os.Chmod(state, 0o700)); err != nil {
		p.problem(fmt.Errorf("prepare %s: %w", layout.PersistentState, err))
	}
	if err := setAside(state); err != nil {
		p.problem(err)
	}
	lost := map[string][]string{} // by why
	for _, k := range p.places(paths) {
		name := layout.StateName(k.path)
		upper, work := filepath.Join(state, name), filepath.Join(work, name)
		keep := persist
		if slices.Contains(layout.EnginePaths(), k.path) {
			keep = p.persistEngine
		}
		if err := keep(k.at, upper, work); err != nil {
			// Better a node that forgets than one that does not start, as long as it says so.
			why := errors.Join(rootCause(err), p.inMemory(k)).Error()
			lost[why] = append(lost[why], k.path)
		}
	}
	for _, why := range slices.Sorted(maps.Keys(lost)) {
		p.problem(fmt.Errorf("not kept over a restart: %s: %s", strings.Join(lost[why], ", "), why))
	}
	if err := p.keepMachineID(state); err != nil {
		return err
	}
	at, err := resolveOrMake(sysroot, layout.MountPersistent)
	if err != nil {
		p.problem(
			fmt.Errorf(
				"PERSISTENT is not mounted on %s: %w: the image needs such a folder",
				layout.MountPersistent,
				err,
			),
		)
		return nil
	}
	if err := bind(persistentDir, sysroot+at); err != nil {
		return fmt.Errorf("mount %s: %w", layout.MountPersistent, err)
	}
	defer hide(persistentDir)
	if err := p.persistLocal(at, local, work); err != nil {
		p.problem(err)
	}
	return nil
}

// rootCause is what the kernel said, without the names that differ from folder to folder.
func rootCause(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// inMemory makes a folder writable that cannot be kept, where it is not so by being in one that is.
func (p *policy) inMemory(k kept) error {
	if slices.Contains(layout.EnginePaths(), k.path) {
		return p.engineInMemory(k.path)
	}
	if unix.Access(sysroot+k.at, unix.W_OK) == nil {
		return nil
	}
	return overlayOn(sysroot+k.at, filepath.Join(scratchDir, layout.StateName(k.path)))
}

// places returns where the paths are in the root, parents first: a path may be below another one. Where the image has
// no such folder, and none can be made, nothing can be written either, and so nothing is lost.
func (p *policy) places(paths []string) []kept {
	var all []kept
	taken := map[string]string{}
	for _, path := range paths {
		if path == layout.MountPersistent || strings.HasPrefix(path, layout.MountPersistent+"/") {
			continue // is on PERSISTENT anyway
		}
		at, err := resolveOrMake(sysroot, path)
		switch {
		case errors.Is(err, unix.EROFS) && !exists(sysroot, path):
			continue
		case err != nil:
			p.problem(fmt.Errorf("%s is not kept: %w", path, err))
			continue
		}
		if other, ok := taken[at]; ok {
			if other != path {
				p.problem(fmt.Errorf("%s is not kept apart: it is the same folder as %s", path, other))
			}
			continue
		}
		taken[at] = path
		all = append(all, kept{path, at})
	}
	slices.SortFunc(all, func(a, b kept) int { return strings.Compare(a.at, b.at) })
	return all
}

// exists says whether the image has the name, if only as a link that leads nowhere.
func exists(root, path string) bool {
	dir, err := resolve(root, filepath.Dir(path))
	if err != nil {
		return false
	}
	_, err = os.Lstat(root + filepath.Join(dir, filepath.Base(path)))
	return err == nil
}

// persist keeps a folder of the image on PERSISTENT.
//
// What the image has there stays visible until the node changes it, so the folder is an overlay.
// Where the image has nothing, and never had, it is a plain bind mount: an engine that we do not know may keep
// overlays of its own in such folders, and the kernel does not stack them any higher.
func persist(at, upper, work string) error {
	target := sysroot + at
	if err := makeUpper(target, upper); err != nil {
		return err
	}
	lower := inImage(at)
	if isEmpty(lower) && !isDir(work) {
		return bind(upper, target)
	}
	if lower == "" {
		lower = scratchDir + "/empty"
		if err := os.MkdirAll(lower, 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return err
	}
	// The image below changes with each upgrade, which overlayfs allows as long as none of these is in use.
	return mount.On("overlay", target, "overlay", 0,
		"lowerdir="+lower+",upperdir="+upper+",workdir="+work+",redirect_dir=off,index=off,metacopy=off,xino=off")
}

// makeUpper makes the folder that takes what is written, with the attributes of the one that it stands for.
func makeUpper(target, upper string) error {
	if isDir(upper) {
		return nil
	}
	if err := os.MkdirAll(upper, 0o755); err != nil {
		return err
	}
	return copyAttributes(target, upper)
}

// inImage returns the image's own folder, below what is mounted over it; it is "" where there is none.
func inImage(at string) string {
	in, err := resolve(imageView, at)
	if err != nil {
		return ""
	}
	return imageView + in
}

// persistLocal keeps visible what the image has in the folders of /usr/local, which PERSISTENT hides.
func (p *policy) persistLocal(at, local, work string) error {
	image := inImage(at)
	if image == "" {
		return nil
	}
	entries, err := os.ReadDir(image)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(layout.MountPersistent, e.Name())
		if !e.IsDir() {
			// Such as Debian's link man → share/man.
			if target, err := os.Readlink(filepath.Join(image, e.Name())); err == nil {
				os.Symlink(target, filepath.Join(local, e.Name()))
			}
			continue
		}
		if strings.ContainsAny(e.Name(), `:,\`) {
			p.problem(fmt.Errorf(`%s of the image is not visible: its name has ":", "," or "\"`, path))
			continue
		}
		upper := filepath.Join(local, e.Name())
		if info, err := os.Lstat(upper); err == nil && !info.IsDir() {
			continue // the node has put something else there
		}
		if err := makeUpper(filepath.Join(image, e.Name()), upper); err != nil {
			p.problem(fmt.Errorf("keep %s: %w", path, err))
			continue
		}
		scratch := filepath.Join(work, layout.StateName(path))
		if isEmpty(filepath.Join(image, e.Name())) && !isDir(scratch) {
			continue
		}
		if err := persist(filepath.Join(at, e.Name()), upper, scratch); err != nil {
			p.problem(fmt.Errorf("keep %s: %w", path, err))
		}
	}
	return nil
}

// setAside takes out of effect what earlier versions kept. What it says, it says until a person has looked.
func setAside(state string) error {
	var errs []error
	for _, path := range layout.RetiredPaths() {
		name := layout.StateName(path)
		from, to := filepath.Join(state, name), filepath.Join(state, name+layout.RetiredSuffix)
		if isDir(from) {
			errs = append(errs, os.RemoveAll(filepath.Join(state, ".work", name)))
			if isEmpty(from) {
				errs = append(errs, os.Remove(from))
			} else if !isDir(to) {
				errs = append(errs, os.Rename(from, to))
			}
		}
		if isDir(to) {
			errs = append(
				errs,
				fmt.Errorf(
					"%s is not persistent any more: what this node had changed there is in %s/%s: "+
						"move what you need to another folder, then remove it",
					path,
					layout.PersistentState,
					filepath.Base(to),
				),
			)
		}
	}
	return errors.Join(errs...)
}

// isEmpty says whether a folder has nothing in it, or does not exist.
func isEmpty(dir string) bool {
	if dir == "" {
		return true
	}
	f, err := os.Open(dir)
	if err != nil {
		return true
	}
	defer f.Close()
	names, _ := f.Readdirnames(1)
	return len(names) == 0
}
