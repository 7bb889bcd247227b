package guard

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
)

// The machine's watchdog restarts it when nobody has asked it not to for some time: what helps where the kernel
// hangs, and the guard with it. systemd does that by itself when it is told to, see [Strict]; under other inits the
// guard does, and only while the release is on trial. The kernel's documentation: watchdog/watchdog-api.rst.
const (
	// watchdogName is the first watchdog's, in the image's /dev and below /sys/class/watchdog.
	watchdogName = "watchdog0"
	// watchdogTimeout is as long as systemd's, in seconds. A device that cannot do that long keeps its own.
	watchdogTimeout = 120
	// watchdogRetry is how often the guard looks for a device: its driver may come late.
	watchdogRetry = 5 * time.Second
)

// ending is how the petting ends.
type ending int

const (
	disarmed ending = iota
	counting        // a restart that hangs in the kernel is for the watchdog
)

// timer is a watchdog that counts.
type timer interface {
	pet() error
	disarm() error
	every() time.Duration // how often it is to be petted
}

// pet waits for a watchdog, and pets it until decided says so or stop has something. First it leaves it for a while
// to whoever else wants it, a daemon of the image: there is one holder. In the end the watchdog stops, but where stop
// says that it is to go on counting.
func pet(open func() (timer, error), grace time.Duration, stop <-chan ending, decided func() bool) error {
	end := disarmed
	wait := func(d time.Duration) (over bool) {
		select {
		case end = <-stop:
			return true
		case <-time.After(d):
			return decided()
		}
	}
	if wait(grace) {
		return nil
	}
	w, err := open()
	for ; errors.Is(err, unix.ENOENT); w, err = open() {
		if wait(watchdogRetry) {
			return nil
		}
	}
	if errors.Is(err, unix.EBUSY) {
		return nil // somebody else pets it
	}
	if err != nil {
		return err
	}
	for {
		if err := w.pet(); err != nil {
			return errors.Join(err, w.disarm())
		}
		if wait(w.every()) {
			if end == counting {
				return nil
			}
			return w.disarm()
		}
	}
}

// watchdog pets the machine's in the background until decided says so. What it returns ends that, and comes back when
// it has ended. An init that ends all processes ends this one, too: what is left to do is its own.
func watchdog(grace time.Duration, decided func() bool, log *console.Log) (end func(ending)) {
	stop, stopped := make(chan ending), make(chan struct{})
	go func() {
		defer close(stopped)
		open := func() (timer, error) { return openWatchdog(rootFD) }
		if err := pet(open, grace, stop, decided); err != nil {
			log.Detail("%v", err)
		}
	}()
	end = func(how ending) {
		select {
		case stop <- how:
			<-stopped
		case <-stopped:
		}
	}
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, unix.SIGTERM)
	go func() { <-ends; end(disarmed); os.Exit(0) }()
	return end
}

// device is a watchdog of the kernel's.
type device struct {
	f       *os.File
	seconds int
}

// openWatchdog starts the machine's watchdog. root is the image's, where the guard finds /dev and /sys. One that
// cannot be stopped is left alone: it would restart a machine whose release has been blessed.
func openWatchdog(root int) (timer, error) {
	fail := func(err error) error { return fmt.Errorf("watchdog: %w", err) }
	b, err := readAt(root, path.Join("sys/class/watchdog", watchdogName, "nowayout"))
	if err != nil {
		return nil, fail(err)
	}
	if strings.TrimSpace(b) != "0" {
		return nil, fail(errors.New("it cannot be stopped once it runs, so it is not used"))
	}
	fd, err := unix.Openat(root, path.Join("dev", watchdogName), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fail(err)
	}
	_ = unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, watchdogTimeout)
	d := &device{f: os.NewFile(uintptr(fd), watchdogName)}
	if d.seconds, err = unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT); err != nil || d.seconds < 1 {
		return nil, errors.Join(fail(fmt.Errorf("timeout of %d seconds: %w", d.seconds, err)), d.disarm())
	}
	return d, nil
}

func readAt(root int, name string) (string, error) {
	fd, err := unix.Openat(root, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	b := make([]byte, 64)
	n, err := unix.Read(fd, b)
	return string(b[:max(n, 0)]), err
}

func (d *device) pet() error { return unix.IoctlWatchdogKeepalive(int(d.f.Fd())) }

func (d *device) every() time.Duration { return time.Duration(d.seconds) * time.Second / 4 }

// disarm stops the watchdog: a V before it is closed says that this is no accident.
func (d *device) disarm() error {
	_, err := d.f.Write([]byte{'V'})
	return errors.Join(err, d.f.Close())
}
