// Command kairos-init is /init of the initrd: it finds the medium that the machine was booted from, mounts the
// release's layers through dm-verity, and hands over to the image's init.
package main

import (
	"os"

	"github.com/kairos-buildkit/kairos/internal/initramfs"
	"github.com/kairos-buildkit/kairos/internal/initramfs/guard"
	"github.com/kairos-buildkit/kairos/internal/initramfs/handover"
	"github.com/kairos-buildkit/kairos/internal/initramfs/policy"
	"github.com/kairos-buildkit/kairos/internal/initramfs/root"
)

func main() {
	if os.Args[0] == guard.Name {
		guard.Run(os.Args[1:])
		return
	}
	initramfs.Main(run)
}

// run boots: it reads as the order of events. It returns only when it has failed.
func run(m *initramfs.Machine) error {
	if err := m.Prepare(); err != nil {
		return err
	}
	if err := m.FindMedium(); err != nil {
		return err
	}
	src := &m.Source
	release, err := src.Release()
	if err != nil {
		return err
	}
	if err := m.CheckTrust(release); err != nil {
		return err
	}
	m.Announce(release)
	if err := root.Mount(src.Store, release, src.Boot.Trial); err != nil {
		return err
	}
	if err := m.CheckMedium(release); err != nil {
		return err
	}
	if err := policy.Mount(&src.Boot, &m.Log, m.Hold); err != nil {
		return err
	}
	if src.Boot.Trial {
		src.Boot.Deadline = guard.Deadline(m.Cmdline, release.Labels)
		if err := guard.Strict("/"); err != nil {
			m.Log.Info("%v", err) // the guard is there all the same
		}
	}
	if err := m.CheckAlone(); err != nil {
		return err
	}
	if err := m.LeaveRecord(); err != nil {
		return err
	}
	init, err := handover.Find(m.Cmdline)
	if err != nil {
		return err
	}
	if err := guard.Start(src.Boot, src.Device, root.Dir, handover.Starter(init), &m.Log); err != nil {
		return err
	}
	m.HandOver()
	return handover.Switch(init, &m.Log)
}
