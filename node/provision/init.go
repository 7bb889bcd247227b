package provision

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// inits are where a kernel's process 1 comes from, in the order in which they are looked for.
var inits = []string{"/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"}

// hasSystemd says whether systemd is process 1 of the image. That it is installed says nothing: with sysvinit as
// /sbin/init beside it, a /run/systemd/system of ours would have all init scripts ask a systemd that does not run.
func (s *System) hasSystemd() bool {
	root, err := unix.Open(s.root.Name(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(root)
	for _, init := range inits {
		fd, err := unix.Openat2(
			root,
			init,
			&unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT},
		)
		if err != nil {
			continue
		}
		program, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)) // where its links lead
		unix.Close(fd)
		return err == nil && filepath.Base(program) == "systemd"
	}
	return false
}
