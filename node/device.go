package node

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// Device is a disk.
type Device struct {
	Path  string `json:"path"` // such as /dev/sda
	Size  int64  `json:"size"` // bytes
	Model string `json:"model,omitempty"`
	// Holds are the labels or names of partitions that are on it.
	Holds []string `json:"holds,omitempty"`

	name              string
	removable, medium bool
	readOnly          bool
}

func (d Device) String() string {
	s := fmt.Sprintf("%s, %d GB", d.Path, d.Size/1_000_000_000)
	if d.Model != "" {
		s += ", " + d.Model
	}
	if len(d.Holds) > 0 {
		s += ", holds " + strings.Join(d.Holds, " ")
	}
	return s
}

// Devices lists the machine's disks, the largest first. The live medium's is not among them.
func Devices(medium string) ([]Device, error) {
	dirs, err := os.ReadDir("/sys/block")
	if err != nil {
		return nil, err
	}
	var all []Device
	for _, e := range dirs {
		if strings.HasPrefix(e.Name(), "loop") || strings.HasPrefix(e.Name(), "ram") || strings.HasPrefix(e.Name(), "zram") ||
			strings.HasPrefix(e.Name(), "dm-") || strings.HasPrefix(e.Name(), "md") || strings.HasPrefix(e.Name(), "sr") || strings.HasPrefix(e.Name(), "fd") {
			continue
		}
		d := readDevice(e.Name(), medium)
		if d.Size > 0 && !d.medium {
			all = append(all, d)
		}
	}
	slices.SortStableFunc(all, func(a, b Device) int { return int((b.Size - a.Size) >> 20) })
	return all, nil
}

func readDevice(name, medium string) Device {
	dir := filepath.Join("/sys/block", name)
	d := Device{name: name, Path: "/dev/" + strings.ReplaceAll(name, "!", "/")}
	if n, err := strconv.ParseInt(sysfs(dir, "size"), 10, 64); err == nil {
		d.Size = n * 512
	}
	d.Model = strings.Join(strings.Fields(sysfs(dir, "device/vendor")+" "+sysfs(dir, "device/model")), " ")
	d.removable = sysfs(dir, "removable") == "1"
	d.readOnly = sysfs(dir, "ro") == "1"
	d.medium = d.Path == medium
	for _, p := range partitions(name) {
		d.medium = d.medium || p.path == medium
		if p.label == "" {
			p.label = filepath.Base(p.path)
		}
		d.Holds = append(d.Holds, p.label)
	}
	return d
}

type partition struct {
	number      int
	path, label string
}

// partitions returns the partitions of a disk that the kernel knows.
func partitions(disk string) []partition {
	var all []partition
	numbers, _ := filepath.Glob(filepath.Join("/sys/block", disk, "*", "partition"))
	for _, file := range numbers {
		dir := filepath.Dir(file)
		n, err := strconv.Atoi(sysfs(dir, "partition"))
		if err != nil {
			continue
		}
		p := partition{number: n, path: "/dev/" + strings.ReplaceAll(filepath.Base(dir), "!", "/")}
		for line := range strings.Lines(sysfs(dir, "uevent")) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PARTNAME="); ok {
				p.label = v
			}
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b partition) int { return a.number - b.number })
	return all
}

func sysfs(dir, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, name)) // an attribute that is not there is empty
	return strings.TrimSpace(string(b))
}

// chooseDevice returns the disk that an installation goes to: the one that is named, or the
// largest one for "auto".
func chooseDevice(want, medium string) (Device, error) {
	all, err := Devices(medium)
	if err != nil {
		return Device{}, err
	}
	var names []string
	for _, d := range all {
		names = append(names, d.Path)
	}
	if want == "" || want == "auto" {
		for _, d := range all {
			if !d.removable && !d.readOnly {
				return d, nil
			}
		}
		return Device{}, refuse("this machine has no disk to install to (%s): attach one, or name one with --device", strings.Join(append(names, "none"), ", "))
	}
	path, err := filepath.EvalSymlinks(want)
	if err != nil {
		return Device{}, refuse("device %s: there is none; the disks are %s", want, strings.Join(names, ", "))
	}
	for _, d := range all {
		if d.Path == path {
			if d.readOnly {
				return Device{}, refuse("device %s is read-only", want)
			}
			return d, nil
		}
	}
	return Device{}, refuse("device %s is no disk that can be installed to (the medium itself, or a partition?); the disks are %s", want, strings.Join(names, ", "))
}

// openExclusive opens a device that nothing else uses.
func openExclusive(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, refuse("device %s is in use: unmount what is mounted from it", path)
	}
	return f, err
}

// readPartitions makes the kernel read a disk's partition table anew, and returns the
// partitions by name when they are there.
func readPartitions(f *os.File, disk string) (map[string]string, error) {
	var err error
	for range 50 {
		if err = unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond) // udev looks at a disk that was just written
	}
	if err != nil {
		return nil, fmt.Errorf("read the new partition table of %s: %w", f.Name(), err)
	}
	want := len(layout.Partitions())
	for range 100 {
		found := map[string]string{}
		for _, p := range partitions(disk) {
			if _, err := os.Stat(p.path); err == nil && p.label != "" {
				found[p.label] = p.path
			}
		}
		if len(found) >= want {
			return found, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("the new partitions of %s did not appear", f.Name())
}

func deviceSize(f *os.File) (int64, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	return size, nil
}

// tableLast writes a disk so that it has no partitions until everything else is on it. The
// beginning of the disk is kept back, and its first sector is the very last write: without
// the protective boot record there, neither firmware nor kernel looks further.
type tableLast struct {
	f    *os.File
	head []byte
}

const headSize = 1 << 20

func newTableLast(f *os.File) (*tableLast, error) {
	zeros := make([]byte, headSize)
	if _, err := f.WriteAt(zeros, 0); err != nil {
		return nil, err
	}
	return &tableLast{f, zeros}, f.Sync()
}

func (t *tableLast) WriteAt(p []byte, off int64) (int, error) {
	n := 0
	if off < headSize {
		n = copy(t.head[off:], p)
		if n == len(p) {
			return n, nil
		}
	}
	m, err := t.f.WriteAt(p[n:], off+int64(n))
	return n + m, err
}

func (t *tableLast) commit() error {
	const sector = 4096 // at least one of the disk's
	if err := t.f.Sync(); err != nil {
		return err
	}
	// What follows the first 512 bytes in the same sector of a 4Kn disk is the table's
	// header: it goes with the boot record.
	if _, err := t.f.WriteAt(t.head[sector:], sector); err != nil {
		return err
	}
	if err := t.f.Sync(); err != nil {
		return err
	}
	if _, err := t.f.WriteAt(t.head[:sector], 0); err != nil {
		return err
	}
	return t.f.Sync()
}
