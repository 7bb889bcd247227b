//go:build vm

package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	klayout "github.com/kairos-buildkit/kairos/layout"
)

// judge says of a raw disk that is brought from state to state whether a node boots from it: its file
// systems by their own checkers, what boots by the rules of firmware, loader and /init.
type judge struct {
	firmware qemu.Firmware
	disk     *os.File
	scratch  string
	done     int // operations of the log that are on the disk
	parts    []*part
	known    bootFiles
	blobs    map[blobKey]error // of blobs that were read before
	// newBoot and oldBoot are the releases of which one has to be what the loader starts first.
	newBoot, oldBoot string
	damaged          string // a release that was damaged before, and need not be complete yet
	inFlight         bool   // the disk has some writes that no flush has followed, and lacks others
}

// part is a partition and what was found in it when it was changed last.
type part struct {
	name        string
	start, size int64
	changed     bool
	err         error
	esp         espContent
	releases    map[string]error // in a store: what is wrong with each
}

func newJudge(t *testing.T, firmware qemu.Firmware, path string) *judge {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &judge{
		firmware: firmware,
		disk:     f,
		scratch:  filepath.Dir(path),
		known:    bootFiles{},
		blobs:    map[blobKey]error{},
	}
}

// WriteAt changes the disk.
func (j *judge) WriteAt(b []byte, at int64) (int, error) {
	for _, p := range j.touched(at, int64(len(b))) {
		p.changed = true
	}
	return j.disk.WriteAt(b, at)
}

// touched returns the partitions that a part of the disk belongs to.
func (j *judge) touched(at, size int64) []*part {
	var all []*part
	for _, p := range j.parts {
		if at < p.start+p.size && p.start < at+size {
			all = append(all, p)
		}
	}
	return all
}

// visible says whether there is a partition table for firmware and kernel: both want the protective
// boot record in the first sector (UEFI specification 2.10, 5.2.3; Linux, block/partitions/efi.c).
func (j *judge) visible() (bool, error) {
	b := make([]byte, 512)
	if _, err := j.disk.ReadAt(b, 0); err != nil {
		return false, err
	}
	return b[510] == 0x55 && b[511] == 0xaa, nil
}

// partitions reads the partition table.
func (j *judge) partitions() error {
	out, err := exec.Command("partx", "--noheadings", "--raw", "--output", "START,SECTORS,NAME", j.disk.Name()).
		CombinedOutput()
	if err != nil {
		return fmt.Errorf("partx: %w: %s", err, out)
	}
	j.parts = nil
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return fmt.Errorf("partx: %q", line)
		}
		start, err1 := strconv.ParseInt(f[0], 10, 64)
		size, err2 := strconv.ParseInt(f[1], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		j.parts = append(j.parts, &part{name: f[2], start: start * 512, size: size * 512, changed: true})
	}
	for _, want := range klayout.Partitions() {
		if j.part(want.Name) == nil {
			return fmt.Errorf("there is no partition %s", want.Name)
		}
	}
	return nil
}

func (j *judge) part(name string) *part {
	for _, p := range j.parts {
		if p.name == name {
			return p
		}
	}
	return nil
}

// state judges the disk as it is now. Partitions that are as they were when they were judged last are
// not read again.
func (j *judge) state() error {
	var errs []error
	for _, p := range j.parts {
		if p.changed {
			p.err = j.partition(p)
			p.changed = false
		}
		if p.err != nil {
			errs = append(errs, fmt.Errorf("partition %s: %w", p.name, p.err))
		}
	}
	return errors.Join(append(errs, j.boots())...)
}

func (j *judge) partition(p *part) (err error) {
	switch p.name {
	case "bios":
		return nil // GRUB's core: nothing of ours changes it
	case "efi":
		p.esp, err = j.checkESP(p)
		return err
	}
	return j.onExt4(p, func(dir string) error {
		if p.name == "state" || p.name == "recovery" {
			p.releases, err = j.checkStore(dir)
			return err
		}
		return nil
	})
}

// boots follows the loader: each release that it would start, in its order, has to be complete.
func (j *judge) boots() error {
	order := j.part("efi").esp.order
	system, recovery := 0, 0
	var errs []error
	for _, e := range order {
		from := j.part("state")
		if e.Seq == klayout.RecoverySeq {
			from = j.part("recovery")
			recovery++
		} else {
			system++
		}
		problem, there := from.releases[e.ID]
		if !there {
			problem = errors.New("its store does not have the release")
		}
		if problem == nil {
			problem = j.part("efi").esp.problems[e]
		}
		if problem != nil && e.ID != j.damaged {
			errs = append(errs, fmt.Errorf("the loader starts %s: %w", e, problem))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if system == 0 || recovery == 0 {
		return fmt.Errorf("the loader starts only %v", order)
	}
	if first := order[0].ID; j.newBoot != "" && first != j.newBoot && first != j.oldBoot {
		return fmt.Errorf(
			"the loader starts release %s first, neither the old one %s nor the new one %s",
			first,
			j.oldBoot,
			j.newBoot,
		)
	}
	return nil
}

// onExt4 checks a copy of a file system, and shows it mounted.
//
// The journal is replayed first, as the kernel does it at mount, and with it go inodes that were
// removed while they were open: `e2fsck -p` does that and no more to a file system whose journal keeps
// its promise, and gives up at anything that needs a decision. The whole check that follows must
// find nothing.
func (j *judge) onExt4(p *part, do func(dir string) error) error {
	image := filepath.Join(j.scratch, "part")
	if err := copySparse(image, j.disk, p.start, p.size); err != nil {
		return err
	}
	if out, err := exec.Command("e2fsck", "-p", image).CombinedOutput(); err != nil && exitCode(err) != 1 {
		return fmt.Errorf("e2fsck -p: %w\n%s", err, out)
	}
	if out, err := exec.Command("e2fsck", "-fn", image).CombinedOutput(); err != nil {
		return fmt.Errorf("e2fsck -fn, after the journal: %w\n%s", err, out)
	}
	return j.mounted(image, 0, p.size, "ext4", do)
}

// mounted shows a part of a file mounted read-only.
func (j *judge) mounted(image string, at, size int64, fs string, do func(dir string) error) (err error) {
	dir := filepath.Join(j.scratch, "mnt")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	out, err := exec.Command("mount", "-t", fs, "-o", fmt.Sprintf("ro,loop,offset=%d,sizelimit=%d", at, size), image,
		dir).
		CombinedOutput()
	if err != nil {
		return fmt.Errorf("mount: %w: %s", err, out)
	}
	defer func() { err = errors.Join(err, unmount(dir)) }()
	return do(dir)
}

// unmount unmounts a folder. A program that another test starts at this moment has copies of the files that were open
// in it, for as long as the kernel takes to close them: then it is tried again, for a minute.
func unmount(dir string) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Unmount(dir, 0)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// copySparse copies a part of a file to another one, without its holes.
func copySparse(to string, from *os.File, at, size int64) (err error) {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(size); err != nil {
		return err
	}
	for pos := at; pos < at+size; {
		data, err := unix.Seek(int(from.Fd()), pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= at+size {
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(from.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		hole = min(hole, at+size)
		if _, err := f.Seek(data-at, io.SeekStart); err != nil {
			return err
		}
		if _, err := from.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(f, io.LimitReader(from, hole-data)); err != nil {
			return err
		}
		pos = hole
	}
	return nil
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// order sorts entries as the loader tries them; those that used up their tries are left out.
func order(entries []klayout.Entry) []klayout.Entry {
	good := slices.DeleteFunc(slices.Clone(entries), klayout.Entry.Bad)
	slices.SortStableFunc(good, func(a, b klayout.Entry) int { return int(b.Seq) - int(a.Seq) })
	return good
}

// lines splits a checker's output.
func lines(b []byte) []string {
	return strings.Split(string(bytes.TrimSpace(b)), "\n")
}
