package initrd

import (
	"bytes"
	"fmt"
)

// archive is a cpio archive in the newc format: for each file a header of 110 ASCII bytes
// ("070701" and 13 fields of eight hex digits), the name with a NUL, the content; name and
// content padded to four bytes. The last entry is named TRAILER!!!.
type archive struct {
	bytes.Buffer
	inode int
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
)

func (a *archive) dir(name string) { a.entry(name, modeDir|0o755, 2, nil, 0, 0) }

func (a *archive) file(name string, perm int, content []byte) {
	a.entry(name, modeFile|perm, 1, content, 0, 0)
}

func (a *archive) charDevice(name string, perm, major, minor int) {
	a.entry(name, modeChar|perm, 1, nil, major, minor)
}

func (a *archive) finish() []byte {
	a.inode = -1 // the trailer has inode 0
	a.entry("TRAILER!!!", 0, 1, nil, 0, 0)
	return a.Bytes()
}

// entry writes one file, owned by root, of the epoch.
func (a *archive) entry(name string, mode, links int, content []byte, major, minor int) {
	a.inode++
	const uid, gid, mtime, devMajor, devMinor, check = 0, 0, 0, 0, 0, 0
	a.WriteString("070701")
	for _, field := range []int{
		a.inode, mode, uid, gid, links, mtime, len(content), devMajor, devMinor, major, minor, len(name) + 1, check,
	} {
		fmt.Fprintf(a, "%08x", field)
	}
	a.WriteString(name)
	a.WriteByte(0)
	a.pad()
	a.Write(content)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}
