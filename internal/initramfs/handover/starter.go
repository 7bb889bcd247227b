package handover

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// maxInittab bounds the inittab that is read, in bytes.
const maxInittab = 1 << 20

// Starter says what starts the node agent under an init of the image.
func Starter(init string) layout.Starter {
	s := layout.Starting{
		Init:     program(sysroot, init),
		Unit:     has(sysroot, layout.ImageBlessUnit),
		Runlevel: has(sysroot, layout.ImageRunlevel),
	}
	if f, err := openIn(sysroot, layout.ImageInittab, unix.O_RDONLY|unix.O_NONBLOCK); err == nil {
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxInittab))
		s.Line = err == nil && hasLine(b)
	}
	return s.Starter()
}

// hasLine says whether an inittab starts our script.
func hasLine(table []byte) bool {
	for line := range bytes.Lines(table) {
		if !bytes.HasPrefix(line, []byte("#")) && bytes.Contains(line, []byte(layout.InittabProgram)) {
			return true
		}
	}
	return false
}

// program returns the name of a program in the image, where its links lead; "" where it leads nowhere.
func program(root, name string) string {
	f, err := openIn(root, name, unix.O_PATH)
	if err != nil {
		return ""
	}
	defer f.Close()
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return ""
	}
	return path.Base(real)
}

func has(root, name string) bool {
	f, err := openIn(root, name, unix.O_PATH)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// openIn opens a file of the image. Links are followed as they will be after the switch: absolute ones begin at the
// image's root.
func openIn(root, name string, flags uint64) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
