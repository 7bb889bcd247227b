package blockdev

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Release ends what uses a disk, as far as that is possible without losing anything: it unmounts, takes swap out of
// use, and takes apart LVM's volumes, encryption, multipath and RAIDs. Nothing of these is changed on the disk, and
// what is in use stays: the error says what that is. It returns what has ended.
func Release(disk string) (ended []User, err error) {
	return release(sysBlock, "/proc", disk, map[string]func(object string) error{
		mountKind: unmountEverywhere, swapKind: swapOff, dmKind: removeMapped, mdKind: stopRAID,
	})
}

// passes bounds how high devices are stacked.
const passes = 16

func release(sys, proc, disk string, end map[string]func(string) error) (ended []User, err error) {
	for range passes {
		all := users(sys, proc, disk)
		if len(all) == 0 {
			return ended, nil
		}
		progress := false
		var errs []error
		for _, u := range all {
			do := end[u.kind]
			if do == nil {
				errs = append(errs, errors.New(u.String()))
				continue
			}
			if err := do(u.object); err != nil {
				errs = append(errs, fmt.Errorf("%v (%w)", u, err))
				continue
			}
			ended, progress = append(ended, u), true
		}
		// What failed may have been in use by what has ended.
		if err = errors.Join(errs...); !progress {
			return ended, err
		}
	}
	return ended, err
}

// unmountEverywhere unmounts a directory for this program, and for the system, whose mounts it may not share.
func unmountEverywhere(dir string) error {
	system := make(chan error, 1)
	go func() {
		// This thread is of no use to anything else afterwards: it ends with the goroutine.
		runtime.LockOSThread()
		system <- unmountIn("/proc/1/ns/mnt", dir)
	}()
	err := <-system
	if own := unix.Unmount(dir, 0); err == nil && own != nil && !errors.Is(own, unix.EINVAL) &&
		!errors.Is(own, unix.ENOENT) {
		err = own
	}
	return err
}

func unmountIn(namespace, dir string) error {
	f, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Unmount(dir, 0); err != nil &&
		!errors.Is(err, unix.EINVAL) { // it is mounted for this program alone
		return err
	}
	return nil
}

func swapOff(device string) error {
	path, err := unix.BytePtrFromString(device)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func removeMapped(name string) error {
	m, err := OpenMapper()
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Remove(name)
}

// stopRAID takes a RAID out of use, as mdadm --stop does.
func stopRAID(device string) error {
	const stopArray = 0x932 // STOP_ARRAY of linux/raid/md_u.h
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetInt(int(f.Fd()), stopArray, 0)
}
