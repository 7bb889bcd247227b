package blockdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Loop makes a read-only loop device of a file, or of size bytes of it from an offset; size 0 is all
// of it. The device goes away with its last user.
func Loop(f *os.File, offset, size int64) (*os.File, error) {
	return loop(f, offset, size, unix.LO_FLAGS_READ_ONLY)
}

// WritableLoop is [Loop] for a file that is open for writing, and is written through the device.
func WritableLoop(f *os.File, offset, size int64) (*os.File, error) { return loop(f, offset, size, 0) }

func loop(f *os.File, offset, size int64, flags uint32) (*os.File, error) {
	fail := func(err error) (*os.File, error) { return nil, fmt.Errorf("loop device for %s: %w", f.Name(), err) }
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(f.Fd())}
	config.Info.Flags = flags | unix.LO_FLAGS_AUTOCLEAR
	config.Info.Offset, config.Info.Sizelimit = uint64(offset), uint64(size)
	copy(config.Info.File_name[:len(config.Info.File_name)-1], filepath.Base(f.Name()))
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return fail(err)
		}
		mode := os.O_RDWR
		if flags&unix.LO_FLAGS_READ_ONLY != 0 {
			mode = os.O_RDONLY
		}
		loop, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), mode, 0)
		if err != nil {
			return fail(err)
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) { // another process was faster
			return fail(err)
		}
	}
}
