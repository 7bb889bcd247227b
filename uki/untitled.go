package uki

import (
	"bytes"

	"github.com/kairos-buildkit/kairos/layout"
)

// Untitled returns a UKI without what the boot menu shows of it, which changes with what it is on a disk: the file as
// the image has it. Other files stay as they are.
func Untitled(b []byte) []byte {
	off, size, err := Place(bytes.NewReader(b), int64(len(b)), OSRel)
	if err != nil {
		return b
	}
	if _, ok := layout.ParseEntryName(b[off:][:size]); !ok {
		return b
	}
	out, err := Replace(b, OSRel, layout.EntryOSRelease("", ""))
	if err != nil {
		return b
	}
	return out
}
