package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// imageView shows the image's root while other things are mounted over its folders.
const imageView = "/" + layout.RunDir + "/image"

// mountPolicy makes writable what is to be writable in sysroot:
//
//	/etc /var /srv          in memory, over the image's content
//	/tmp                    in memory
//	/oem, /usr/local        the partitions OEM and PERSISTENT, on an installed node
//	the persistent paths    on PERSISTENT, over the image's content
//
// A live medium and the recovery system keep nothing: there the persistent paths are in memory too, and
// PERSISTENT stays free to be made anew.
func (m *machine) mountPolicy(b layout.Boot) error {
	if err := os.MkdirAll(imageView, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(sysroot, imageView, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the image's root: %w", err)
	}
	defer func() {
		unix.Unmount(imageView, unix.MNT_DETACH)
		os.Remove(imageView)
	}()
	var more layout.Mounts
	if b.Role != layout.RoleLive {
		var err error
		if more, err = m.mountOEM(b.Devices["oem"]); err != nil {
			// A node without its config is still a node that can be repaired.
			m.log.info("%v", err)
		}
	}
	ephemeral := append(layout.EphemeralPaths(), more.Ephemeral...)
	persistent := append(layout.PersistentPaths(), more.Bind...)
	if b.Role != layout.RoleSystem {
		ephemeral = append(append(ephemeral, persistent...), layout.MountPersistent)
	}
	if err := mountEphemeral(outermost(ephemeral)); err != nil {
		return err
	}
	if b.Role != layout.RoleSystem {
		return nil
	}
	return m.mountPersistent(b.Devices["persistent"], persistent)
}

// outermost drops the paths that are at or below another one of the list.
func outermost(paths []string) []string {
	paths = slices.Clone(paths)
	slices.Sort(paths)
	var out []string
	for _, p := range paths {
		if !slices.ContainsFunc(out, func(o string) bool { return p == o || strings.HasPrefix(p, o+"/") }) {
			out = append(out, p)
		}
	}
	return out
}

// mountOEM mounts OEM, and reads what the node's config adds to the policy.
func (m *machine) mountOEM(device string) (layout.Mounts, error) {
	dir := sysroot + layout.MountOEM
	if device == "" || !isDir(dir) {
		return layout.Mounts{}, fmt.Errorf("OEM is not mounted: the disk has no partition oem, or the image no folder %s", layout.MountOEM)
	}
	if err := mount(device, dir, "ext4", unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return layout.Mounts{}, err
	}
	b, err := os.ReadFile(filepath.Join(dir, layout.OEMMounts))
	if os.IsNotExist(err) {
		return layout.Mounts{}, nil
	}
	if err != nil {
		return layout.Mounts{}, err
	}
	return layout.ParseMounts(b)
}

// mountPersistent mounts PERSISTENT, and the paths that are kept on it.
func (m *machine) mountPersistent(device string, paths []string) error {
	local := sysroot + layout.MountPersistent
	if device == "" {
		return fmt.Errorf("the disk has no partition named persistent")
	}
	if err := mount(device, local, "ext4", 0, ""); err != nil {
		return err
	}
	if err := growExt4(local, device); err != nil {
		m.log.info("%v", err) // the node works in the space that it has
	}
	state := sysroot + layout.PersistentState
	if err := os.MkdirAll(state+"/.work", 0o755); err != nil {
		return fmt.Errorf("prepare %s: %w", layout.PersistentState, err)
	}
	// Parents first: a path may be below another one.
	paths = slices.Clone(paths)
	slices.Sort(paths)
	for _, p := range slices.Compact(paths) {
		if p == layout.MountPersistent || strings.HasPrefix(p, layout.MountPersistent+"/") {
			continue // is on PERSISTENT anyway
		}
		if err := persist(p, filepath.Join(state, layout.StateName(p)), filepath.Join(state, ".work", layout.StateName(p))); err != nil {
			return err
		}
	}
	if err := persistLocal(local, filepath.Join(state, ".work")); err != nil {
		return err
	}
	return keepMachineID(state)
}

// persist keeps a folder of the image on PERSISTENT.
//
// What the image has there stays visible until the node changes it, so the folder is an overlay.
// Where the image has nothing, and never had, it is a plain bind mount: container engines keep
// their own overlays in such folders, and the kernel does not stack them any higher.
func persist(path, upper, work string) error {
	target, lower := sysroot+path, imageView+path
	if !isDir(target) {
		// On the read-only root it cannot be made: the image does not want it. Below /etc and /var it can.
		if err := os.MkdirAll(target, 0o755); err != nil {
			return nil
		}
	}
	if !isDir(upper) {
		if err := os.MkdirAll(upper, 0o755); err != nil {
			return fmt.Errorf("keep %s: %w", path, err)
		}
		if err := copyFolder(target, upper); err != nil {
			return fmt.Errorf("keep %s: %w", path, err)
		}
	}
	if isEmpty(lower) && !isDir(work) {
		if err := unix.Mount(upper, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("keep %s: bind mount: %w", path, err)
		}
		return nil
	}
	if !isDir(lower) {
		lower = scratchDir + "/empty"
		if err := os.MkdirAll(lower, 0o755); err != nil {
			return fmt.Errorf("keep %s: %w", path, err)
		}
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return fmt.Errorf("keep %s: %w", path, err)
	}
	// The image below changes with each upgrade, which overlayfs allows as long as none of these is in use.
	return mount("overlay", target, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work+",redirect_dir=off,index=off,metacopy=off,xino=off")
}

// persistLocal keeps visible what the image has in the folders of /usr/local, which PERSISTENT hides.
func persistLocal(local, work string) error {
	entries, err := os.ReadDir(imageView + layout.MountPersistent)
	if err != nil {
		return nil // the image has none
	}
	for _, e := range entries {
		path := filepath.Join(layout.MountPersistent, e.Name())
		if !e.IsDir() {
			// Such as Debian's link man → share/man.
			if target, err := os.Readlink(imageView + path); err == nil {
				os.Symlink(target, sysroot+path)
			}
			continue
		}
		upper := filepath.Join(local, e.Name())
		if !isDir(upper) {
			if err := os.Mkdir(upper, 0o755); err != nil {
				return fmt.Errorf("keep %s: %w", path, err)
			}
			if err := copyFolder(imageView+path, upper); err != nil {
				return fmt.Errorf("keep %s: %w", path, err)
			}
		}
		scratch := filepath.Join(work, layout.StateName(path))
		if isEmpty(imageView+path) && !isDir(scratch) {
			continue
		}
		if err := persist(path, upper, scratch); err != nil {
			return err
		}
	}
	return nil
}

// isEmpty says whether a folder has nothing in it, or does not exist.
func isEmpty(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return true
	}
	defer f.Close()
	names, _ := f.Readdirnames(1)
	return len(names) == 0
}
