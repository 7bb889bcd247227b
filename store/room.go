package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// mostContent is far more than any system has, and what is converted in some minutes if it is holes.
const mostContent = 256 << 30

// MaxContent is what an image's new layers may have in all where nobody says it, uncompressed and with the holes of
// their files: sixteen times the free bytes of the file system that gets them, and at most 256 GiB. A system is
// compressed to a third or a half; what some kilobytes claim is bounded only by this.
func MaxContent(free int64) int64 {
	const least = 128 << 20 // a small layer fits where a copy of it is free already
	return max(least, min(free, mostContent/16)*16)
}

// Free returns the bytes that are free on the file system that a folder is in.
func Free(dir string) (int64, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
		}
		return int64(st.Bavail) * st.Bsize, nil
	}
}
