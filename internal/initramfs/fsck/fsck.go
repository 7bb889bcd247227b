// Package fsck has a damaged file system checked before it is mounted, by the e2fsck of the image, or the one that its
// boot layer carries.
//
// A file system is checked when its superblock is not valid, when the kernel has noted errors in it, or when it cannot
// be mounted; what only lacks a clean end is the journal's work, and the kernel's. Nothing is changed where no
// superblock of ours is found, not even a copy: what is there then may be anything.
package fsck

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Program runs e2fsck and returns its exit status and what it said. An error says that it did not run to its end.
type Program func(args ...string) (status int, output string, err error)

// Exit status of e2fsck(8), a sum.
const (
	corrected   = 1
	rebootFirst = 2 // of a mounted file system
)

// Result says what a check has done.
type Result struct {
	// Checked says that the file system was checked, Repaired that more was done than its journal and counters need.
	Checked, Repaired bool
}

// ErrNone says that there is no file system of ours on a device, of which nothing was changed.
var ErrNone = errors.New("neither its superblock nor a copy of it is there")

// Mend checks the file system with a label on a device if it has to be; with force, if it says that it is sound, too.
// The error says why it cannot be used.
func Mend(device, label string, force bool, e2fsck Program) (Result, error) {
	f, err := os.Open(device)
	if err != nil {
		return Result{}, err
	}
	defer f.Close()
	was := look(f, label)
	if was == sound && !force {
		return Result{}, nil
	}
	var from []string
	if was == gone {
		at := copies(f, label)
		if len(at) == 0 {
			return Result{}, ErrNone
		}
		from = []string{"-b", strconv.FormatInt(at[0], 10), "-B", strconv.Itoa(blockSize)}
	}
	f.Close() // e2fsck wants it for itself
	r, err := run(e2fsck, device, label, from, was)
	if err == nil && isGone(device, label) {
		err = errors.New("it has no valid superblock after e2fsck either")
	}
	return r, err
}

// run has what is safe corrected (-p), and if that is not enough, everything (-y): what lost its name is in lost+found
// then. Nobody is there who could be asked.
//
// A copy of the superblock may say that the journal is to be replayed, since it was written while the file system was
// mounted: e2fsck does so, finds the same in the copy again, and gives up. It has restored the first superblock then,
// which it goes on from.
func run(e2fsck Program, device, label string, from []string, was condition) (r Result, err error) {
	r.Checked, r.Repaired = true, was == gone
	var status int
	var out string
	for _, how := range []string{"-p", "-y", "-y"} {
		status, out, err = e2fsck(append(append([]string{"-f", how}, from...), device)...)
		if err != nil {
			return r, fmt.Errorf("e2fsck: %w", err)
		}
		if !failed(status) {
			return r, nil
		}
		r.Repaired = true
		if from == nil && how == "-y" {
			break // it would find the same
		}
		if from != nil && !isGone(device, label) {
			from = nil
		}
	}
	return r, fmt.Errorf("e2fsck ended with status %d: %s", status, lastLine(out))
}

func isGone(device, label string) bool {
	f, err := os.Open(device)
	if err != nil {
		return true
	}
	defer f.Close()
	return look(f, label) == gone
}

func failed(status int) bool { return status&^(corrected|rebootFirst) != 0 }

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
