package initramfs

import (
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/initramfs/efi"
	"github.com/kairos-buildkit/kairos/internal/initramfs/medium"
	"github.com/kairos-buildkit/kairos/internal/initramfs/report"
	"github.com/kairos-buildkit/kairos/layout"
)

// fail ends a boot that has failed.
func (m *Machine) fail(err error) {
	if !m.end.fail() {
		stop() // the timer was faster
	}
	m.restart(err)
}

// restart says why the machine does not boot, and restarts it.
func (m *Machine) restart(err error) {
	m.Log.Crit("cannot boot: %v", err)
	// A disk that does not answer must not keep the machine from its next try.
	boot := m.Source.Boot
	e := report.Within(15*time.Second, func() error { return report.Failure(boot, m.Source.Device, err) })
	if e != nil {
		m.Log.Crit("report the failure: %v", e)
	}
	if errors.Is(err, medium.ErrAlike) {
		// A restart finds the same, and would use up the tries of a release that nothing is wrong with.
		m.Log.Crit("stopped until somebody has looked")
		stop()
	}
	wait, forever := restartDelay(m.Cmdline)
	if forever {
		m.Log.Crit("stopped, since the command line has panic=0")
		stop()
	}
	if boot.Role == layout.RoleRecovery && !boot.Trial && boot.Firmware == layout.FirmwareUEFI {
		// Under BIOS it is GRUB that waits.
		n := efi.Failures() + 1
		if err := efi.SetFailures(n); err != nil {
			m.Log.Crit("%v", err)
			n = len(recoveryPauses) // without a memory, the longest pause
		}
		wait = max(wait, recoveryPause(n))
		m.Log.Crit(
			"the recovery system does not start either, and nothing else is left: " +
				"repair this machine from a live medium",
		)
	}
	m.Log.Crit("restarting in %v", wait)
	time.Sleep(wait)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	stop() // not reached, and PID 1 must not return
}

// recoveryPauses grow from one failed start of the recovery system to the next, as GRUB's do (layout.GrubDiskConfig).
var recoveryPauses = []time.Duration{
	10 * time.Second,
	30 * time.Second,
	time.Minute,
	2 * time.Minute,
	5 * time.Minute,
	10 * time.Minute,
}

// recoveryPause is the pause after n failed starts, 1 for the first.
func recoveryPause(n int) time.Duration {
	return recoveryPauses[min(max(n, 1), len(recoveryPauses))-1]
}

// stop never returns. An empty select would end the program where no other goroutine runs.
func stop() {
	for {
		time.Sleep(time.Hour)
	}
}

// restartDelay reads panic= as the kernel does: seconds, 0 to wait for ever, negative to
// restart at once. Without it the kernel would wait for ever, but a node has to get to its
// next try.
func restartDelay(cmdline layout.Cmdline) (wait time.Duration, forever bool) {
	v, ok := cmdline.Get("panic")
	n, err := strconv.Atoi(v)
	switch {
	case !ok || err != nil:
		return 10 * time.Second, false
	case n == 0:
		return 0, true
	case n < 0:
		return 0, false
	}
	return time.Duration(n) * time.Second, false
}
