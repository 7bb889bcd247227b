package layout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// FirstBoot is what a raw image says to /init of the disk that it is written to, between partition table and first
// partition. It counts as long as the table has the GUID that it names: the first boot gives the disk another one, in
// the same write that gives the partitions their places.
//
//	{"disk":"8a4d2c5e-0f0b-4c56-9d3a-6b7c1e2f9a10","state":1073741824}
//
// The block is filled with zeros.
type FirstBoot struct {
	// Disk is the GUID of the image's partition table, in lower case.
	Disk string `json:"disk"`
	// State is what STATE is to have at least, in bytes, where the disk has room: see [StateSize]. 0: it keeps its
	// size.
	State int64 `json:"state,omitempty"`
}

// Place of FirstBoot on the disk, in bytes: behind the tables of disks with sectors of 512 and of 4096 bytes.
const (
	FirstBootAt   = 64 << 10
	FirstBootSize = 4096
)

// ParseFirstBoot reads the block.
func ParseFirstBoot(b []byte) (FirstBoot, error) {
	text := bytes.TrimRight(b, "\x00")
	var f FirstBoot
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return FirstBoot{}, fmt.Errorf("record for the first boot: %w", err)
	}
	if !isGUID(f.Disk) || f.State < 0 || d.InputOffset() != int64(len(text)) {
		return FirstBoot{}, fmt.Errorf("record for the first boot: %q", text)
	}
	return f, nil
}

// Marshal returns the block.
func (f FirstBoot) Marshal() []byte {
	b := make([]byte, FirstBootSize)
	text, _ := json.Marshal(f) // a string and a number cannot fail
	copy(b, text)
	return b
}

// isGUID says whether a text is a GUID in lower case.
func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !strings.ContainsRune("0123456789abcdef", rune(c)) {
				return false
			}
		}
	}
	return true
}

// STATE holds two releases and has room for what later ones grow by: without a size in the config it is four times as
// large as the release, or a fifth of the disk up to 16 GiB, whatever is more, as far as the disk has room.
const (
	StateImages = 4
	stateShare  = 5
	stateMost   = 16 << 30
)

// StateSize returns the size in bytes that STATE is to have on a disk of a size, where it is to have at least some.
func StateSize(least, disk int64) int64 { return max(least, min(disk/stateShare, stateMost)) }
