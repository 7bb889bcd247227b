// Package imagevm boots a kernel in a virtual machine, with a program of ours as /init, to
// mount images: to compare what the kernel sees in them, and to measure how fast it reads.
//
// The machine has one disk: a [Job] in JSON in the first MiB, padded with zeros, then the
// images and what they must contain, at the offsets that the job names.
package imagevm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// headerSize is the room for the job.
const headerSize = 1 << 20

// Job is what the machine is to do.
type Job struct {
	Checks  []Check
	Reads   []Read
	Rounds  int // of Reads; all images in turn, so that what disturbs one disturbs all
	Modules []string
}

// Check is an image that the kernel must see as the lines say.
type Check struct {
	Name   string
	FSType string
	Image  Piece
	Lines  Piece
}

// Read is an image to measure, with its dm-verity tree.
type Read struct {
	Name     string
	FSType   string
	Image    Piece // with the tree
	DataSize int64
	RootHash string
}

// Piece is a part of the disk.
type Piece struct{ Offset, Size int64 }

// Disk lays out a machine's disk.
type Disk struct {
	f    *os.File
	next int64
}

// NewDisk makes the file of a disk.
func NewDisk(path string) (*Disk, error) {
	f, err := os.Create(path)
	return &Disk{f, headerSize}, err
}

// Add copies r to the disk.
func (d *Disk) Add(r io.Reader) (Piece, error) {
	p := Piece{Offset: d.next}
	n, err := io.Copy(io.NewOffsetWriter(d.f, d.next), r)
	p.Size = n
	d.next += (n + 4095) / 4096 * 4096
	return p, err
}

// AddLines adds what an image must contain.
func (d *Disk) AddLines(lines []string) (Piece, error) {
	return d.Add(strings.NewReader(strings.Join(lines, "\n")))
}

// Finish writes the job and closes the disk.
func (d *Disk) Finish(j Job) error {
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if len(b) >= headerSize {
		return fmt.Errorf("job of %d bytes: want less than %d", len(b), headerSize)
	}
	if _, err := d.f.WriteAt(b, 0); err != nil {
		return err
	}
	if err := d.f.Truncate(d.next + 4096); err != nil {
		return err
	}
	return d.f.Close()
}

// ReadJob reads the job from a disk.
func ReadJob(r io.ReaderAt) (j Job, err error) {
	b := make([]byte, headerSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		return j, err
	}
	return j, json.Unmarshal(bytes.TrimRight(b, "\x00"), &j)
}

// Result is what the machine says of one measurement, as a line of JSON after [ResultMark].
type Result struct {
	Name    string
	Kind    string // sequential, random or walk
	Seconds float64
	Bytes   int64
	Count   int // files or reads
}

// Marks in the machine's output.
const (
	ResultMark = "RESULT "
	CheckMark  = "CHECK "
	DoneMark   = "DONE"
)
