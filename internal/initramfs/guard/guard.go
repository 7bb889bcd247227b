// Package guard restarts a machine whose release on trial is not blessed in time.
//
// The guard is a copy of /init that stays behind in the initrd's root when a release on trial starts. It depends on
// nothing in the image. If the release is not blessed in time, because it hangs or because nothing in it blesses, the
// guard restarts the machine, and the loader has counted a try.
//
// Where the image has an init that nothing starts the node agent with, the guard starts it: it blesses, at each start
// of a release.
package guard

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/internal/initramfs/report"
	"github.com/kairos-buildkit/kairos/layout"
)

// Name is the guard's name: its first argument. The @ has systemd-shutdown spare it (systemd.io/ROOT_STORAGE_DAEMONS),
// so that it ends a restart that hangs, too.
const Name = "@kairos-guard"

// maxStop bounds the time that the image's init has to stop its services: systemd gives each 90 seconds.
const maxStop = 2 * time.Minute

// runFD is the guard's file descriptor of RunDir, which it could not open by its path.
const runFD = 3

// rootFD is the guard's file descriptor of the image's root.
const rootFD = 4

// initFD is the end of a pipe whose other end process 1 has until it becomes the image's init.
const initFD = 5

// Start starts the guard of a release whose store is on a device, where there is something to do: the release is on
// trial, or nothing in the image blesses. root is the image's. The guard is told all that it needs, for it will not
// see /dev or /proc.
func Start(b layout.Boot, store, root string, starter layout.Starter, log *console.Log) error {
	blesses := asks(b, starter)
	if b.Deadline == 0 && !blesses {
		return nil
	}
	pets := b.Deadline > 0 && starter != layout.BySystemd
	fail := func(err error) error { return fmt.Errorf("start the guard: %w", err) }
	run, err := os.Open("/" + layout.RunDir)
	if err != nil {
		return fail(err)
	}
	defer run.Close()
	var device unix.Stat_t
	if err := unix.Stat(store, &device); err != nil {
		return fail(err)
	}
	image, err := os.Open(root)
	if err != nil {
		return fail(err)
	}
	defer image.Close()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return fail(err)
	}
	defer unix.Close(pipe[0])
	out := log.File().Fd()
	_, err = syscall.ForkExec(
		"/init",
		[]string{
			Name, strconv.Itoa(b.Deadline), b.Release,
			strconv.FormatUint(device.Rdev, 10), strconv.FormatBool(blesses), strconv.FormatBool(pets),
		},
		&syscall.ProcAttr{
			Env:   []string{"GOMAXPROCS=1"},
			Files: []uintptr{out, out, out, run.Fd(), image.Fd(), uintptr(pipe[0])},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		},
	)
	if err != nil {
		unix.Close(pipe[1])
		return fail(err)
	}
	return nil // the other end of the pipe closes when the image's init takes this process over
}

// asks says whether the guard is to start the node agent: nothing in the image does, and there is something to bless.
func asks(b layout.Boot, starter layout.Starter) bool {
	return starter == layout.ByGuard && (b.Role == layout.RoleSystem || b.OnTrial())
}

// Deadline returns how many seconds a release on trial has: those of the command line, and the soak time that its
// labels have.
func Deadline(cmdline layout.Cmdline, labels map[string]string) int {
	health, _ := layout.ParseHealth(labels) // what is wrong the node agent says
	soak := int((health.Soak + time.Second - 1) / time.Second)
	v, _ := cmdline.Get(layout.CmdlineDeadline)
	if n, err := strconv.Atoi(v); err == nil && n > 0 {
		return n + soak
	}
	return layout.BlessDeadline + soak
}

// stopTime is how long a release has to stop that had so many seconds to start.
func stopTime(seconds int) time.Duration { return min(time.Duration(seconds)*time.Second, maxStop) }

// settleTime is how long an init that we do not know has to run before the release is asked whether it is healthy: an
// init that ends at once takes the machine down, and such a release must not get new tries at each start. seconds is
// the deadline of a release on trial, else 0.
func settleTime(seconds int) time.Duration {
	if quarter := time.Duration(seconds) * time.Second / 4; quarter > 0 {
		return min(quarter, time.Minute)
	}
	return time.Minute
}

// awaitInit waits until process 1 has become the image's init: nobody has the other end of the pipe any more.
func awaitInit(fd int) {
	for {
		n, err := unix.Read(fd, make([]byte, 1))
		if n <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Run is the guard: it waits, and restarts the machine unless the release was blessed.
func Run(args []string) {
	if len(args) != 5 {
		os.Exit(2)
	}
	unix.CloseOnExec(runFD)
	unix.CloseOnExec(rootFD)
	unix.CloseOnExec(initFD)
	log := console.On(os.Stderr)
	seconds, _ := strconv.Atoi(args[0])
	device, _ := strconv.ParseUint(args[2], 10, 64)
	blessing := func() {
		awaitInit(initFD)
		time.Sleep(settleTime(seconds))
		again(func() bool { return bless(log) }, time.Sleep)
	}
	if blesses, _ := strconv.ParseBool(args[3]); blesses && seconds == 0 {
		blessing()
		os.Exit(0)
	} else if blesses {
		go blessing()
	}
	decided := func() bool { return marked(layout.RunHealthy) || marked(layout.RunBlessed) }
	endPetting := func(ending) {}
	if pets, _ := strconv.ParseBool(args[4]); pets {
		endPetting = watchdog(settleTime(seconds), decided, log)
	}
	time.Sleep(time.Duration(seconds) * time.Second)
	if decided() {
		endPetting(disarmed)
		os.Exit(0)
	}
	reason := fmt.Sprintf(
		"not blessed within %d seconds: the system hangs, or its health checks did not pass",
		seconds,
	)
	log.Crit("release %s was %s; restarting", args[1], reason)
	// A restart that the health checks asked for may take longer than this: they know more about why.
	if !marked(layout.RunUnhealthy) {
		// The machine restarts even if the disk does not answer.
		err := report.Within(15*time.Second, func() error { return report.Write(device, args[1], reason) })
		if err != nil {
			log.Crit("report the failure: %v", err)
		}
		// What Ctrl-Alt-Del asks for, in every init: services stop in order.
		_ = unix.Kill(1, unix.SIGINT)
	}
	time.Sleep(stopTime(seconds))
	log.Crit("the restart hangs: it is forced")
	endPetting(counting)
	report.Within(15*time.Second, func() error { unix.Sync(); return nil })
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// marked says whether the node agent has left a mark in RunDir.
func marked(name string) bool { return unix.Faccessat(runFD, path.Base(name), unix.F_OK, 0) == nil }
