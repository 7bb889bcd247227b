package policy

import (
	"errors"

	"golang.org/x/sys/unix"
)

// copyAttributes gives one file or folder the owner, mode, extended attributes and time of another: an
// overlay shows those of its upper folder.
func copyAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return err
	}
	if err := errors.Join(unix.Chown(to, int(st.Uid), int(st.Gid)), unix.Chmod(to, st.Mode&0o7777)); err != nil {
		return err
	}
	names := make([]byte, 64<<10)
	n, err := unix.Listxattr(from, names)
	if err != nil {
		n = 0 // the file system has none
	}
	for _, name := range splitNul(names[:n]) {
		value := make([]byte, 64<<10)
		if n, err := unix.Getxattr(from, name, value); err == nil {
			unix.Setxattr(to, name, value[:n], 0) // such as a security label: the kernel may refuse it
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, 0)
}

func splitNul(b []byte) []string {
	var parts []string
	start := 0
	for i, c := range b {
		if c == 0 {
			parts = append(parts, string(b[start:i]))
			start = i + 1
		}
	}
	return parts
}
