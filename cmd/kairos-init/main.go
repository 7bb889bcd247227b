// Command kairos-init is /init of the initrd: it finds the medium that the machine was booted
// from, mounts the release's layers through dm-verity, and hands over to the image's init.
//
// In order: modules; the medium; the store on it, read-only; the release; for each layer loop device,
// dm-verity, EROFS; a read-only overlay of them as the root; what is writable over it; the image's init.
// The medium is the volume COS_LIVE, or the disk with the very ESP that the boot loader came from: see
// parseOrigin.
//
// It is PID 1 without a shell, udev or any other program beside it. If it cannot boot, it
// says what and why on the console, waits the seconds that panic= gives, and restarts the
// machine, so that the boot loader counts a failed try.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/layout"
)

func main() {
	if os.Args[0] == guardName {
		guard(os.Args[1:])
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "kairos-init is /init of the initrd: it only runs as process 1")
		os.Exit(2)
	}
	m := &machine{}
	defer func() {
		if p := recover(); p != nil {
			m.fail(fmt.Errorf("bug in /init: %v", p))
		}
	}()
	time.AfterFunc(startTimeout, func() { m.fail(fmt.Errorf("not done after %v: something hangs", startTimeout)) })
	m.fail(m.run()) // run only returns when it has failed
}

// startTimeout bounds all that happens before the image's init starts.
const startTimeout = 5 * time.Minute

// machine is what is known about the machine while it boots.
type machine struct {
	cmdline layout.Cmdline
	log     console
	modules *modules
	devices *devices
	boot    layout.Boot // as far as it is known yet
	store   string      // device
}

// run boots: it reads as the order of events.
func (m *machine) run() error {
	if err := mountKernelInterfaces(); err != nil {
		return err
	}
	if err := m.readCmdline(); err != nil {
		return err
	}
	m.log.open(m.cmdline)

	var err error
	if m.modules, err = readModules(m.cmdline, &m.log); err != nil {
		return err
	}
	if m.devices, err = watchDevices(m.modules); err != nil {
		return err
	}
	if err := m.modules.loadAll("loop", "dm_verity", "erofs", "overlay"); err != nil {
		return err
	}

	src, err := m.findSource()
	if err != nil {
		return err
	}
	release, err := readRelease(src)
	m.boot, m.store = src.boot, src.device
	if err != nil {
		return err
	}
	m.log.info("booting %s, release %s, %d layers, from %s (%s)", or(release.Version, "an image without a version"), release.ID(), len(release.Layers), src.device, src.boot.Role)
	if err := m.mountRoot(src.store, release); err != nil {
		return err
	}
	if err := m.mountPolicy(src.boot); err != nil {
		return err
	}
	if src.boot.Trial {
		src.boot.Deadline = deadline(m.cmdline)
	}
	if err := leaveRecord(src.boot); err != nil {
		return err
	}
	if err := m.startGuard(src.boot, src.device); err != nil {
		return err
	}
	return m.switchRoot()
}

func (m *machine) readCmdline() error {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read the kernel's command line: %w", err)
	}
	m.cmdline = layout.ParseCmdline(string(b))
	return nil
}

// leaveRecord writes what the running system wants to know about this boot.
func leaveRecord(b layout.Boot) error {
	if err := os.WriteFile("/"+layout.RunBoot, b.Marshal(), 0o644); err != nil {
		return fmt.Errorf("write the boot record: %w", err)
	}
	return nil
}

func or(s, otherwise string) string {
	if strings.TrimSpace(s) == "" {
		return otherwise
	}
	return s
}
