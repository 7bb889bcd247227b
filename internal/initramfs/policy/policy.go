// Package policy makes writable what is to be writable on a node, and keeps what is to be kept:
//
//	/etc /var /srv          in memory, over the image's content
//	/tmp                    in memory
//	/oem, /usr/local        the partitions OEM and PERSISTENT, on an installed node
//	the persistent paths    on PERSISTENT, over the image's content
//	container engines'      on PERSISTENT, a copy of the image's content
//
// A live medium and the recovery system keep nothing: there the persistent paths are in memory too, and PERSISTENT
// stays free to be regenerated.
//
// Where something is mounted is looked up inside the image's root, so that links lead where they do in the running
// system.
package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/internal/initramfs/root"
	"github.com/kairos-buildkit/kairos/internal/mount"
	"github.com/kairos-buildkit/kairos/layout"
)

// Where things are while the root is put together.
const (
	// sysroot is the root that it is about.
	sysroot = root.Dir
	// imageView shows the image's root while other things are mounted over its folders.
	imageView = "/" + layout.RunPrivate + "/image"
	// scratchDir is a tmpfs that takes what is written to the ephemeral folders.
	scratchDir = "/" + layout.RunPrivate + "/ephemeral"
	// persistentDir is PERSISTENT, until it is at its place.
	persistentDir = "/" + layout.RunPrivate + "/persistent"
)

// policy is what is being done.
type policy struct {
	boot *layout.Boot
	log  *console.Log
	hold func() func()
}

// Mount carries the policy out. What could not be done as the policy has it is noted in the record of the boot, for a
// person to read; an error means that the system cannot run. hold is called before something that takes as long as a
// disk is large, and what it returns afterwards.
func Mount(b *layout.Boot, log *console.Log, hold func() func()) error {
	p := &policy{boot: b, log: log, hold: hold}
	if err := errors.Join(mount.PrivateDir("/"+layout.RunPrivate), os.MkdirAll(imageView, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount(sysroot, imageView, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the image's root: %w", err)
	}
	// What is mounted over them keeps them: the running system need not see them.
	defer hide(imageView)
	defer hide(scratchDir)
	return p.mount()
}

func hide(dir string) {
	unix.Unmount(dir, unix.MNT_DETACH)
	os.Remove(dir)
}

func (p *policy) mount() error {
	var more layout.Mounts
	if p.boot.Role != layout.RoleLive {
		p.checkOthers()
		var err error
		if more, err = p.mountOEM(); err != nil {
			// A node without its config is still a node that can be repaired.
			p.problem(err)
		}
	}
	ephemeral := append(layout.EphemeralPaths(), more.Ephemeral...)
	persistent := append(layout.PersistentPaths(), more.Bind...)
	if p.boot.Role != layout.RoleSystem {
		ephemeral = append(append(ephemeral, persistent...), layout.MountPersistent)
	}
	if err := p.mountEphemeral(outermost(ephemeral)); err != nil {
		return err
	}
	if p.boot.Role == layout.RoleSystem {
		return p.mountPersistent(persistent)
	}
	for _, path := range layout.EnginePaths() {
		if err := p.engineInMemory(path); err != nil {
			p.problem(fmt.Errorf("%s: %w", path, err))
		}
	}
	return nil
}

// problem notes what a person has to know, and what keeps no node from starting.
func (p *policy) problem(err error) {
	p.log.Info("%v", err)
	p.boot.Problems = append(p.boot.Problems, err.Error())
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
func (p *policy) mountOEM() (layout.Mounts, error) {
	device := p.boot.Devices["oem"]
	if device == "" {
		return layout.Mounts{}, errors.New("OEM is not mounted: the disk has no partition named oem")
	}
	at, err := resolveOrMake(sysroot, layout.MountOEM)
	if err != nil {
		return layout.Mounts{}, fmt.Errorf("OEM is not mounted: the image has no folder %s: %w", layout.MountOEM, err)
	}
	dir := sysroot + at
	if err := p.mountExt4("oem", dir, mount.Data); err != nil {
		return layout.Mounts{}, fmt.Errorf("OEM is not mounted, its cloud-config does not take effect: %w", err)
	}
	// It holds password hashes and tokens.
	if err := os.Chmod(dir, 0o700); err != nil {
		p.problem(fmt.Errorf("keep %s from other users: %w", layout.MountOEM, err))
	}
	b, err := os.ReadFile(filepath.Join(dir, layout.OEMMounts))
	if os.IsNotExist(err) {
		return layout.Mounts{}, nil
	}
	if err != nil {
		return layout.Mounts{}, err
	}
	all, err := layout.ParseMounts(b)
	if err != nil {
		return layout.Mounts{}, err
	}
	usable, errs := all.Usable()
	usable, more := usableIn(sysroot, usable)
	for _, err := range append(errs, more...) {
		p.problem(err)
	}
	return usable, nil
}
