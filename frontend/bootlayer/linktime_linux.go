package bootlayer

import (
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// setLinkTime sets the time of a symbolic link itself, which package os cannot.
func setLinkTime(root *os.Root, name string) error {
	dir, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	t := unix.NsecToTimespec(Time.UnixNano())
	err = unix.UtimesNanoAt(int(dir.Fd()), path.Base(name), []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	return os.NewSyscallError("utimensat", err)
}
