package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// devices follows the kernel's announcements of devices, loads their drivers, and lets the
// boot wait for a disk.
type devices struct {
	modules *modules
	changed chan struct{} // has a token when a block device came or changed

	mu     sync.Mutex
	probed map[string]bool // block devices that were looked at since they last changed
}

// deviceTimeout is how long a boot medium may take to appear. USB sticks take seconds, RAID
// controllers with many disks up to a minute.
const deviceTimeout = 90 * time.Second

// watchDevices starts to follow the kernel's announcements, then loads drivers for the
// devices that are there already: in this order none is missed.
func watchDevices(m *modules) (*devices, error) {
	d := &devices{modules: m, changed: make(chan struct{}, 1), probed: map[string]bool{}}
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
		m.load("sr_mod")
		os.WriteFile("/sys/module/block/parameters/events_dfl_poll_msecs", []byte("1000\n"), 0)
	}()
	return d, nil
}

func (d *devices) follow(fd int) {
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
			go d.modules.match(alias)
		}
		if e["SUBSYSTEM"] == "block" {
			d.forget(e["DEVNAME"])
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
func (d *devices) coldplug() {
	var wg sync.WaitGroup
	seen := map[string]bool{}
	filepath.WalkDir("/sys/devices", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() != "modalias" {
			return nil
		}
		b, err := os.ReadFile(path)
		if alias := strings.TrimSpace(string(b)); err == nil && alias != "" && !seen[alias] {
			seen[alias] = true
			wg.Go(func() { d.modules.match(alias) })
		}
		return nil
	})
	wg.Wait()
	d.wake()
}

func (d *devices) forget(name string) {
	d.mu.Lock()
	delete(d.probed, filepath.Base(name))
	d.mu.Unlock()
	d.wake()
}

func (d *devices) wake() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// find waits until a block device is the one that match accepts. It looks at each device once,
// and again when the kernel says that it changed. When none is found in time, it returns
// the names of those that it saw.
func (d *devices) find(match func(device string) bool) (device string, seen []string, err error) {
	deadline := time.After(deviceTimeout)
	for {
		seen = d.blockDevices()
		for _, name := range seen {
			d.mu.Lock()
			done := d.probed[name]
			d.probed[name] = true
			d.mu.Unlock()
			if !done && match("/dev/"+name) {
				return "/dev/" + name, seen, nil
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

// blockDevices lists disks, then partitions, without those that hold no medium of their own.
func (d *devices) blockDevices() []string {
	entries, _ := os.ReadDir("/sys/class/block")
	var disks, partitions []string
	for _, e := range entries {
		name := e.Name()
		if slices.ContainsFunc([]string{"loop", "ram", "dm-", "zram", "nbd", "md"}, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		if _, err := os.Stat("/sys/class/block/" + name + "/partition"); err == nil {
			partitions = append(partitions, name)
		} else {
			disks = append(disks, name)
		}
	}
	return append(disks, partitions...)
}
