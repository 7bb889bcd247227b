// Package initramfs is what /init knows about the machine while it boots, and what it does when that fails.
//
// /init is PID 1 without a shell, udev or any other program beside it. If it cannot boot, it says what and why on the
// console, leaves it in the store, waits the seconds that panic= gives, and restarts the machine, so that the boot
// loader counts a failed try.
package initramfs

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/internal/initramfs/devices"
	"github.com/kairos-buildkit/kairos/internal/initramfs/efi"
	"github.com/kairos-buildkit/kairos/internal/initramfs/guard"
	"github.com/kairos-buildkit/kairos/internal/initramfs/handover"
	"github.com/kairos-buildkit/kairos/internal/initramfs/medium"
	"github.com/kairos-buildkit/kairos/internal/initramfs/modules"
	"github.com/kairos-buildkit/kairos/internal/initramfs/policy"
	"github.com/kairos-buildkit/kairos/internal/initramfs/root"
	"github.com/kairos-buildkit/kairos/internal/initramfs/sealed"
	"github.com/kairos-buildkit/kairos/internal/initramfs/unlock"
	"github.com/kairos-buildkit/kairos/internal/mount"
	"github.com/kairos-buildkit/kairos/layout"
)

// Machine is what is known about the machine while it boots.
type Machine struct {
	Cmdline layout.Cmdline
	Log     console.Log
	Modules *modules.Loader
	Devices *devices.Watcher
	Source  medium.Source // as far as it is known yet
	Release layout.Release

	seal     *sealed.Seal // nil: the initrd trusts whatever is there
	modprobe []byte       // what the kernel starts for modules, where the seal has taken it away
	finder   medium.Finder
	init     string // the image's

	end   end
	timer *time.Timer
}

// startTimeout bounds all that happens before the image's root is the root.
const startTimeout = 5 * time.Minute

// Main boots the machine step by step, and never returns: the last step becomes the image's init, or one has failed.
func Main(steps ...func(*Machine) error) {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "kairos-init is /init of the initrd: it only runs as process 1")
		os.Exit(2)
	}
	m := &Machine{}
	defer func() {
		if p := recover(); p != nil {
			m.fail(fmt.Errorf("bug in /init: %v", p))
		}
	}()
	m.timer = time.AfterFunc(startTimeout, func() {
		if m.end.late() {
			m.restart(fmt.Errorf("not done after %v: something hangs", startTimeout))
		}
	})
	for _, step := range steps {
		if err := step(m); err != nil {
			m.fail(err)
		}
	}
	m.fail(errors.New("the last step has not become the image's init"))
}

// Prepare shows the kernel's state, and loads drivers for the devices that are there and that come.
func (m *Machine) Prepare() error {
	if err := mount.KernelInterfaces(); err != nil {
		return err
	}
	if err := m.readCmdline(); err != nil {
		return err
	}
	var err error
	if m.Modules, err = modules.Open(m.Cmdline, &m.Log); err != nil {
		return err
	}
	if m.Devices, err = devices.Watch(m.Modules); err != nil {
		return err
	}
	return m.Modules.LoadAll("loop", "dm_verity", "erofs", "overlay")
}

// readCmdline reads the kernel's command line, as far as the initrd's trust.json lets it be obeyed, and opens the log.
func (m *Machine) readCmdline() error {
	seal, sealErr := sealed.Read("/"+layout.InitrdTrust, &m.Log)
	m.seal = seal
	var helperErr error
	if seal != nil {
		m.modprobe, helperErr = sealed.NoHelper()
	}
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read the kernel's command line: %w", err)
	}
	if sealErr == nil {
		firmware := layout.FirmwareBIOS
		if efi.Firmware() {
			firmware = layout.FirmwareUEFI
		}
		m.Cmdline, err = seal.Cmdline(layout.ParseCmdline(string(b)), firmware)
	}
	m.Log.Open(m.Cmdline)
	return errors.Join(sealErr, helperErr, err)
}

// FindMedium finds what the machine was booted from, and mounts its store.
func (m *Machine) FindMedium() (err error) {
	m.finder = medium.Finder{Cmdline: m.Cmdline, Log: &m.Log, Modules: m.Modules, Devices: m.Devices, Seal: m.seal}
	m.Source, err = m.finder.Find()
	return err
}

// ReadRelease reads what is to be booted.
func (m *Machine) ReadRelease() (err error) {
	m.Release, err = m.Source.Release()
	return err
}

// CheckTrust refuses a release, or a UKI, that the keys in the initrd have not signed. It comes before a layer is
// mounted.
func (m *Machine) CheckTrust() error {
	if m.seal == nil {
		return nil
	}
	if err := m.seal.Release(m.Release); err != nil {
		return err
	}
	if err := m.seal.Floor(m.Release, m.Source.Boot.Role, m.floors); err != nil {
		return err
	}
	boot := m.Source.Boot
	if boot.Firmware == layout.FirmwareBIOS {
		m.seal.Unchecked("kernel and initrd: BIOS starts whatever is on the disk, so nothing that follows is proof")
		return nil
	}
	image, err := efi.Text(efi.StubImage)
	if err != nil {
		return m.seal.Refuse(err)
	}
	if boot.Role == layout.RoleLive {
		medium, err := os.Open(m.Source.Device)
		if err != nil {
			return m.seal.Refuse(err)
		}
		defer medium.Close()
		return m.seal.LiveUKI(medium, image, m.Release)
	}
	esp, err := os.Open(boot.Devices["efi"])
	if err != nil {
		return m.seal.Refuse(err)
	}
	defer esp.Close()
	return m.seal.UKI(esp, image, m.Release)
}

// CheckAlone refuses a disk that looks like the one that was booted from, and came later.
func (m *Machine) CheckAlone() error { return m.finder.Alone() }

// MountRoot mounts the release's layers.
func (m *Machine) MountRoot() error {
	return root.Mount(m.Source.Store, m.Release, m.Source.Boot.Trial)
}

// CheckMedium reads all of the live medium's release, where the boot menu asks for it.
func (m *Machine) CheckMedium() error {
	if _, ok := m.Cmdline.Get(layout.CmdlineCheck); !ok || m.Source.Boot.Role != layout.RoleLive {
		return nil
	}
	m.timer.Stop() // somebody watches, and a slow medium takes its time
	if err := root.Check(m.Release, m.Log.Crit); err != nil {
		return err
	}
	m.Log.Crit("the medium is good")
	m.timer.Reset(startTimeout)
	return nil
}

// Unlock opens the encrypted partitions of an installed disk.
func (m *Machine) Unlock() error {
	if m.Source.Boot.Role != layout.RoleLive {
		unlock.Open(unlock.Machine{Boot: &m.Source.Boot, Log: &m.Log, Load: m.Modules.LoadAll, Hold: m.Hold})
	}
	return nil
}

// MakeWritable makes writable what is to be writable.
func (m *Machine) MakeWritable() error { return policy.Mount(&m.Source.Boot, &m.Log, m.Hold) }

// SetDeadline bounds the time that a release on trial has, and has a damaged block of it end the trial.
func (m *Machine) SetDeadline() error {
	if !m.Source.Boot.Trial {
		return nil
	}
	m.Source.Boot.Deadline = guard.Deadline(m.Cmdline, m.Release.Labels)
	if err := guard.Strict("/"); err != nil {
		m.Log.Info("%v", err) // the guard is there all the same
	}
	return nil
}

// LeaveRecord writes what the running system wants to know about this boot.
func (m *Machine) LeaveRecord() error {
	if m.seal != nil {
		m.Source.Boot.Problems = append(m.Source.Boot.Problems, m.seal.Problems...)
	}
	if err := os.WriteFile("/"+layout.RunBoot, m.Source.Boot.Marshal(), 0o644); err != nil {
		return fmt.Errorf("write the boot record: %w", err)
	}
	if m.seal == nil {
		return nil
	}
	b, err := m.seal.Anchor.Marshal()
	if err == nil {
		err = os.WriteFile("/"+layout.RunTrust, b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write what the machine trusts: %w", err)
	}
	return nil
}

// StartGuard finds the image's init and starts the guard, which stays behind.
func (m *Machine) StartGuard() (err error) {
	if m.init, err = handover.Find(m.Cmdline); err != nil {
		return err
	}
	return guard.Start(m.Source.Boot, m.Source.Device, root.Dir, handover.Starter(m.init), &m.Log)
}

// HandOver becomes the image's init.
func (m *Machine) HandOver() error {
	m.decide()
	return handover.Switch(m.init, &m.Log)
}

// decide makes the decision that the machine boots: from here on the timer cannot restart it. If the timer was
// faster, it does not return.
func (m *Machine) decide() {
	if !m.end.handOver() {
		stop()
	}
	if err := sealed.Helper(m.modprobe); err != nil {
		m.Log.Info("%v", err) // the system loads by itself what its kernel misses
	}
	if m.Source.Boot.Role == layout.RoleRecovery && m.Source.Boot.Firmware == layout.FirmwareUEFI {
		if err := efi.SetFailures(0); err != nil {
			m.Log.Info("%v", err) // the next failure waits longer than it had to
		}
	}
}

// Hold takes the bound on the time away from something that has one of its own and takes as long as a disk is large.
// What it returns sets it again.
func (m *Machine) Hold() func() {
	m.timer.Stop()
	return func() { m.timer.Reset(startTimeout) }
}

// Announce says what boots.
func (m *Machine) Announce() error {
	r := m.Release
	version := r.Version
	if strings.TrimSpace(version) == "" {
		version = "an image without a version"
	}
	m.Log.Info("booting %s, release %s, %d layers, from %s (%s)",
		version, r.ID(), len(r.Layers), m.Source.Device, m.Source.Boot.Role)
	return nil
}
