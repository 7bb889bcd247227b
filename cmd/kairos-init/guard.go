package main

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// The guard is a copy of this program that stays behind in the initrd's root when a release on
// trial starts. It depends on nothing in the image. If the release is not blessed in time,
// because it hangs or because nothing in it blesses, the guard restarts the machine, and the
// loader has counted a try.
const guardName = "kairos-guard"

// guardRunFD is the guard's file descriptor of RunDir, which it could not open by its path.
const guardRunFD = 3

// startGuard starts the guard. It is told all that it needs, for it will not see /dev or /proc.
func (m *machine) startGuard(b layout.Boot, store string) error {
	if b.Deadline == 0 {
		return nil
	}
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
	log := uintptr(2)
	if m.log.kmsg != nil {
		log = m.log.kmsg.Fd()
	}
	_, err = syscall.ForkExec("/init", []string{guardName, strconv.Itoa(b.Deadline), b.Release, strconv.FormatUint(device.Rdev, 10)}, &syscall.ProcAttr{
		Env:   []string{"GOMAXPROCS=1"},
		Files: []uintptr{log, log, log, run.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

// deadline returns how many seconds a release on trial has.
func deadline(cmdline layout.Cmdline) int {
	v, _ := cmdline.Get(layout.CmdlineDeadline)
	if n, err := strconv.Atoi(v); err == nil && n > 0 {
		return n
	}
	return layout.BlessDeadline
}

// guard waits, and restarts the machine unless the release was blessed.
func guard(args []string) {
	if len(args) != 3 {
		os.Exit(2)
	}
	log := console{kmsg: os.Stderr}
	seconds, _ := strconv.Atoi(args[0])
	device, _ := strconv.ParseUint(args[2], 10, 64)
	time.Sleep(time.Duration(seconds) * time.Second)
	marked := func(name string) bool { return unix.Faccessat(guardRunFD, path.Base(name), unix.F_OK, 0) == nil }
	if marked(layout.RunBlessed) {
		os.Exit(0)
	}
	reason := fmt.Sprintf("not blessed within %d seconds: the system hangs, or its health checks did not pass", seconds)
	log.write(crit, "release %s was %s; restarting", args[1], reason)
	// A restart that the health checks asked for may take longer than this: they know more about why.
	if !marked(layout.RunUnhealthy) {
		// The machine restarts even if the disk does not answer.
		if err := within(15*time.Second, func() error { return reportFailure(device, args[1], reason) }); err != nil {
			log.write(crit, "report the failure: %v", err)
		}
	}
	within(15*time.Second, func() error { unix.Sync(); return nil })
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
