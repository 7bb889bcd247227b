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
	fail := func(err error) (*os.File, error) { return nil, fmt.Errorf("loop device for %s: %w", f.Name(), err) }
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(f.Fd())}
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	config.Info.Offset, config.Info.Sizelimit = uint64(offset), uint64(size)
	copy(config.Info.File_name[:len(config.Info.File_name)-1], filepath.Base(f.Name()))
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return fail(err)
		}
		loop, err := os.Open("/dev/loop" + strconv.Itoa(n))
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
