package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// reportFailure leaves in the store why a release failed, with the last lines of the console. It
// works while the store is mounted read-only elsewhere, and from the guard, which sees another root.
func reportFailure(deviceNumber uint64, id, reason string) error {
	const dir, node = "/failed-store", "/failed-store-device"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	os.Remove(node)
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(deviceNumber)); err != nil {
		return err
	}
	// The second mount of a file system shares it, and can make it writable.
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount(node, dir, "ext4", flags|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	defer unix.Unmount(dir, 0)
	if err := unix.Mount("", dir, "", flags|unix.MS_REMOUNT, ""); err != nil {
		return err
	}
	// Read-only again, so that the next boot finds a clean file system.
	defer unix.Mount("", dir, "", flags|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	path := filepath.Join(dir, layout.FailurePath(id))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	text := strings.ReplaceAll(reason, "\n", " ") + "\n"
	return writeDurable(path, append([]byte(text), kernelLog(layout.MaxFailureSize-len(text))...), 0o644)
}

// reportFailure leaves the reason in STATE, if the machine got that far.
func (m *machine) reportFailure(err error) error {
	if m.boot.Role != layout.RoleSystem || m.store == "" {
		return nil
	}
	var st unix.Stat_t
	if e := unix.Stat(m.store, &st); e != nil {
		return e
	}
	return reportFailure(st.Rdev, m.boot.Release, fmt.Sprintf("cannot boot: %v", err))
}

// kernelLog returns the end of the kernel's log, whole lines.
func kernelLog(limit int) []byte {
	const readAll = 3 // SYSLOG_ACTION_READ_ALL
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(readAll, buf)
	if err != nil || limit <= 0 {
		return nil
	}
	return lastLines(buf[:n], min(limit, 16<<10))
}

func lastLines(b []byte, limit int) []byte {
	if len(b) <= limit {
		return b
	}
	b = b[len(b)-limit:]
	if i := strings.IndexByte(string(b), '\n'); i >= 0 {
		b = b[i+1:]
	}
	return b
}

// fallBack makes sure that a failed boot does not simply happen again. A release on trial has its
// tries counted by the loader. One that was healthy once has not: the loader is told, for the next
// start only, to take the release below it, and in the end the recovery system.
func (m *machine) fallBack() error {
	if m.boot.Role != layout.RoleSystem || m.boot.Trial || m.boot.Devices["efi"] == "" {
		return nil // counted, or nothing is below it
	}
	if err := m.modules.load("vfat"); err != nil {
		return err
	}
	const dir = "/failed-esp"
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if m.boot.Entry != "" {
		flags |= unix.MS_RDONLY
	}
	if err := mount(m.boot.Devices["efi"], dir, "vfat", flags, ""); err != nil {
		return err
	}
	defer unix.Unmount(dir, 0)
	if m.boot.Entry != "" {
		return m.fallBackUEFI(filepath.Join(dir, layout.UKIDir))
	}
	return m.fallBackGrub(filepath.Join(dir, layout.GrubEnv))
}

func (m *machine) fallBackUEFI(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	next, ok := entryBelow(m.boot.Entry, names)
	if !ok {
		return nil
	}
	m.log.info("the next start takes %s", next)
	return writeLoaderVariable(loaderOneShot, next)
}

// entryBelow returns the entry to try after the booted one, as systemd-boot names it: without the
// try counter.
func entryBelow(booted string, names []string) (string, bool) {
	from, err := layout.ParseEntry(booted)
	if err != nil {
		return "", false
	}
	var best layout.Entry
	found := false
	for _, name := range names {
		e, err := layout.ParseEntry(name)
		if err != nil || e.Bad() || e.Seq >= from.Seq || found && e.Seq <= best.Seq {
			continue
		}
		best, found = e, true
	}
	best.Counted = false
	return best.String(), found
}

func (m *machine) fallBackGrub(env string) error {
	f, err := os.OpenFile(env, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, layout.GrubEnvSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return err
	}
	state, err := layout.ParseGrubEnv(b)
	if err != nil {
		return err
	}
	if state.Next = slotBelow(m.boot.Release, state); state.Next == "" {
		return nil
	}
	if b, err = state.Marshal(); err != nil {
		return err
	}
	m.log.info("the next start takes entry %s", state.Next)
	// In place: one sector, so the disk writes all of it or nothing.
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Sync()
}

// slotBelow returns GRUB's name for the entry to try after the booted one.
func slotBelow(booted string, state layout.GrubState) string {
	below := false
	for i, e := range state.Entries {
		if below && !e.Bad() {
			return fmt.Sprint(i + 1)
		}
		below = below || e.ID == booted
	}
	if state.Recovery != "" {
		return "recovery"
	}
	return ""
}

// within runs something that may hang, and goes on after a while.
func within(d time.Duration, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(d):
		return os.ErrDeadlineExceeded
	}
}
