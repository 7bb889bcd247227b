// Package console writes what /init has to say into the kernel's log: that shows on every console in
// the order of events, and stays readable in the running system (dmesg, journalctl -k).
package console

import (
	"fmt"
	"os"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

// Log writes into the kernel's log. The zero value writes to standard output.
type Log struct {
	kmsg  *os.File
	debug bool
}

// Levels of the kernel's log, as in syslog(3). The kernel shows crit even under "quiet".
const (
	crit   = 2
	notice = 5
	info   = 6
)

// Open opens the kernel's log, where there is one.
func (l *Log) Open(cmdline layout.Cmdline) {
	_, l.debug = cmdline.Get(layout.CmdlineDebug)
	// By default the kernel drops lines of a process that writes many.
	os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on\n"), 0)
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		l.kmsg = f
	}
}

// On returns a log that writes to an open /dev/kmsg.
func On(kmsg *os.File) *Log { return &Log{kmsg: kmsg} }

// File returns what the log writes to.
func (l *Log) File() *os.File {
	if l.kmsg == nil {
		return os.Stdout
	}
	return l.kmsg
}

// Crit is for what a person has to see, under "quiet" too.
func (l *Log) Crit(format string, args ...any) { l.write(crit, format, args...) }

// Info is for what a person may want to see.
func (l *Log) Info(format string, args ...any) { l.write(notice, format, args...) }

// Detail is for those who look for a fault: it needs kairos.debug.
func (l *Log) Detail(format string, args ...any) {
	if l.debug {
		l.write(info, format, args...)
	}
}

func (l *Log) write(level int, format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		// The kernel takes one line a write, of at most about 1000 bytes.
		if len(line) > 900 {
			line = line[:900] + "…"
		}
		if l.kmsg == nil {
			fmt.Println("kairos: " + line)
			continue
		}
		// Without its end the kernel keeps a line back until the next one comes.
		fmt.Fprintf(l.kmsg, "<%d>kairos: %s\n", level, line)
	}
}
