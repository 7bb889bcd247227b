package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// console writes into the kernel's log: that shows on every console in the order of
// events, and stays readable in the running system (dmesg, journalctl -k).
type console struct {
	kmsg  *os.File
	debug bool
}

// Levels of the kernel's log, as in syslog(3). The kernel shows crit even under "quiet".
const (
	crit   = 2
	notice = 5
	info   = 6
)

func (c *console) open(cmdline layout.Cmdline) {
	_, c.debug = cmdline.Get(layout.CmdlineDebug)
	// By default the kernel drops lines of a process that writes many.
	os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on\n"), 0)
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		c.kmsg = f
	}
}

func (c *console) info(format string, args ...any) { c.write(notice, format, args...) }

// detail is for those who look for a fault: it needs kairos.debug.
func (c *console) detail(format string, args ...any) {
	if c.debug {
		c.write(info, format, args...)
	}
}

func (c *console) write(level int, format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		// The kernel takes one line a write, of at most about 1000 bytes.
		if len(line) > 900 {
			line = line[:900] + "…"
		}
		if c.kmsg == nil {
			fmt.Println("kairos: " + line)
			continue
		}
		fmt.Fprintf(c.kmsg, "<%d>kairos: %s", level, line)
	}
}

// fail says why the machine does not boot, and restarts it.
func (m *machine) fail(err error) {
	m.log.write(crit, "cannot boot: %v", err)
	// A disk that does not answer must not keep the machine from its next try.
	if e := within(15*time.Second, func() error { return m.reportFailure(err) }); e != nil {
		m.log.write(crit, "report the failure: %v", e)
	}
	if e := within(15*time.Second, m.fallBack); e != nil {
		m.log.write(crit, "choose what to start next: %v", e)
	}
	wait, forever := restartDelay(m.cmdline)
	if forever {
		m.log.write(crit, "stopped, since the command line has panic=0")
		stop()
	}
	m.log.write(crit, "restarting in %v", wait)
	time.Sleep(wait)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	stop() // not reached, and PID 1 must not return
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
