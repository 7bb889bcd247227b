package policy

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/blockdev"
	"github.com/kairos-buildkit/kairos/internal/initramfs/fsck"
	"github.com/kairos-buildkit/kairos/internal/mount"
	"github.com/kairos-buildkit/kairos/layout"
)

// openPersistent mounts PERSISTENT on persistentDir. If that is not possible, what is persistent is in memory until
// the next start, and the partition is left alone: a node that forgets can be repaired, and its data be saved from it.
func (p *policy) openPersistent() error {
	err := p.mountExt4("persistent", persistentDir, 0)
	if err == nil {
		if err := blockdev.GrowExt4(persistentDir, p.boot.Devices["persistent"]); err != nil {
			p.log.Info("%v", err) // the node works in the space that it has
		}
		return nil
	}
	p.boot.Persistent = layout.PersistentInMemory
	err = fmt.Errorf(
		"PERSISTENT cannot be used: %w. Until that is mended nothing is kept over a restart: what is persistent "+
			"is in memory, and the partition is left as it is. Save from it what you need; "+

			"`kairos-apply reset` in the recovery system formats it",
		err,
	)
	p.log.Crit("%v", err)
	p.boot.Problems = append(p.boot.Problems, err.Error())
	return mount.On("tmpfs", persistentDir, "tmpfs", unix.MS_NODEV, "mode=0755")
}

// checkOthers has the file systems checked that are not mounted here, if they are damaged: nothing finds that before
// they are needed, and this is the moment at which nothing uses them.
func (p *policy) checkOthers() {
	other := "recovery"
	if p.boot.Role == layout.RoleRecovery {
		other = "state"
	}
	if p.boot.Devices[other] == "" {
		return
	}
	if err := p.check(other, false); err != nil {
		p.problem(err)
	}
}

// mountExt4 mounts a partition of the disk, after a check if it has to be checked.
func (p *policy) mountExt4(name, dir string, flags uintptr) error {
	device := p.boot.Devices[name]
	if device == "" {
		return fmt.Errorf("the disk has no partition named %s", name)
	}
	if e, ok := p.boot.Encrypted[name]; ok && e.UnlockedBy == "" {
		return errors.New("it is encrypted, and was not opened")
	}
	if err := p.check(name, false); err != nil {
		return err
	}
	err := mount.On(device, dir, "ext4", flags, "")
	if !errors.Is(err, unix.EUCLEAN) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EIO) {
		return err
	}
	// Something else than its superblock is damaged.
	if e := p.check(name, true); e != nil {
		return errors.Join(err, e)
	}
	return mount.On(device, dir, "ext4", flags, "")
}

// check has a file system checked, if its superblock says that this has to be, or with force.
func (p *policy) check(name string, force bool) error {
	device, label := p.boot.Devices[name], layout.LabelOf(name)
	program := fsck.InImage(sysroot)
	r, err := fsck.Mend(device, label, force, func(args ...string) (int, string, error) {
		defer p.hold()()
		p.log.Crit("%s (%s) is damaged: checking it", label, device)
		status, out, err := program(args...)
		p.log.Info("%s", out)
		return status, out, err
	})
	switch {
	case err != nil && r.Checked:
		return fmt.Errorf("%s (%s) is damaged, and a check does not mend it: %w", label, device, err)
	case err != nil:
		return fmt.Errorf("%s (%s) is damaged: %w", label, device, err)
	case r.Repaired:
		p.problem(
			fmt.Errorf("%s (%s) was damaged and is repaired: files that had lost their names are in its lost+found",
				label, device),
		)
	case r.Checked:
		p.log.Info("%s (%s) was checked and is good", label, device)
	}
	return nil
}
