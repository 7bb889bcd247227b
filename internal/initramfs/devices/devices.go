// Package devices follows the kernel's announcements of devices, loads their drivers, and waits for a disk.
package devices

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/blockdev"
)

// Modules are the drivers.
type Modules interface {
	Load(name string) error
	Match(modalias string) // loads the drivers of a device
}

// Watcher knows the machine's block devices.
type Watcher struct {
	modules Modules
	changed chan struct{} // has a token when a block device came or changed
	cold    chan struct{} // closed when the drivers of what was there at the start are loaded

	mu     sync.Mutex
	probed map[string]bool // paths of block devices that were looked at since they last changed
}

// Timeout is how long a boot medium may take to appear. USB sticks take seconds, RAID
// controllers with many disks up to a minute.
const Timeout = 90 * time.Second

// Watch starts to follow the kernel's announcements, then loads drivers for the
// devices that are there already: in this order none is missed.
func Watch(m Modules) (*Watcher, error) {
	d := &Watcher{modules: m, changed: make(chan struct{}, 1), cold: make(chan struct{}), probed: map[string]bool{}}
	const kernelGroup = 1
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup})
	}
	if err != nil {
		return nil, fmt.Errorf("listen to the kernel's device events: %w", err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	go d.follow(fd)
	go d.coldplug()
	// CD drives announce a medium only when the kernel polls them.
	go func() {
		m.Load("sr_mod")
		os.WriteFile("/sys/module/block/parameters/events_dfl_poll_msecs", []byte("1000\n"), 0)
	}()
	return d, nil
}

func (d *Watcher) follow(fd int) {
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			// ENOBUFS: events were lost. wait looks again by itself.
			time.Sleep(100 * time.Millisecond)
			continue
		}
		e := parseUevent(buf[:n])
		if e["ACTION"] == "remove" {
			continue
		}
		if alias := e["MODALIAS"]; alias != "" {
			go d.modules.Match(alias)
		}
		if e["SUBSYSTEM"] == "block" {
			d.forget(strings.TrimPrefix(e["DEVNAME"], "/dev/"))
		}
	}
}

// parseUevent reads a kernel event: "add@/devices/…", then KEY=VALUE, each ended by a NUL.
func parseUevent(b []byte) map[string]string {
	e := map[string]string{}
	for i, part := range strings.Split(string(b), "\x00") {
		if k, v, ok := strings.Cut(part, "="); ok && i > 0 {
			e[k] = v
		}
	}
	return e
}

// coldplug loads drivers for the devices that are already there.
func (d *Watcher) coldplug() {
	var wg sync.WaitGroup
	seen := map[string]bool{}
	filepath.WalkDir("/sys/devices", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() != "modalias" {
			return nil
		}
		b, err := os.ReadFile(path)
		if alias := strings.TrimSpace(string(b)); err == nil && alias != "" && !seen[alias] {
			seen[alias] = true
			wg.Go(func() { d.modules.Match(alias) })
		}
		return nil
	})
	wg.Wait()
	close(d.cold)
	d.wake()
}

func (d *Watcher) forget(name string) {
	d.mu.Lock()
	delete(d.probed, "/dev/"+name)
	d.mu.Unlock()
	d.wake()
}

func (d *Watcher) wake() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// settleTimeout bounds how long a boot waits for drivers of devices that it may not need.
const settleTimeout = 15 * time.Second

// Settle waits until the disks that are attached have appeared, as far as that can be known.
func (d *Watcher) Settle() {
	select {
	case <-d.cold:
	case <-time.After(settleTimeout):
	}
	// A driver announces its disks when it has looked at them, a moment after it was loaded.
	time.Sleep(500 * time.Millisecond)
}

// Find waits until a block device is the one that match accepts. It looks at each device once,
// and again when the kernel says that it changed. When none is found in time, it returns
// those that it saw.
func (d *Watcher) Find(match func(device string) bool) (device string, seen []string, err error) {
	deadline := time.After(Timeout)
	for {
		seen = blockdev.List()
		for _, name := range seen {
			d.mu.Lock()
			done := d.probed[name]
			d.probed[name] = true
			d.mu.Unlock()
			if !done && match(name) {
				return name, seen, nil
			}
		}
		select {
		case <-d.changed:
		case <-time.After(5 * time.Second):
			// In case that an event was lost: look at all of them again.
			d.mu.Lock()
			clear(d.probed)
			d.mu.Unlock()
		case <-deadline:
			return "", seen, os.ErrDeadlineExceeded
		}
	}
}
