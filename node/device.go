package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/blockdev"
	"github.com/kairos-buildkit/kairos/layout"
)

// Device is a disk.
type Device struct {
	Path  string `json:"path"` // such as /dev/sda
	Size  int64  `json:"size"` // bytes
	Model string `json:"model,omitempty"`
	// Holds are the labels or names of partitions that are on it.
	Holds []string `json:"holds,omitempty"`

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

// devices lists the machine's disks, the largest first. The live medium's is not among them.
func (m *Machine) devices() ([]Device, error) {
	sys := m.path("sys/block")
	dirs, err := os.ReadDir(sys)
	if err != nil {
		return nil, err
	}
	var all []Device
	for _, e := range dirs {
		if strings.HasPrefix(e.Name(), "loop") || strings.HasPrefix(e.Name(), "ram") ||
			strings.HasPrefix(e.Name(), "zram") ||
			strings.HasPrefix(e.Name(), "dm-") || strings.HasPrefix(e.Name(), "md") ||
			strings.HasPrefix(e.Name(), "sr") ||
			strings.HasPrefix(e.Name(), "fd") {
			continue
		}
		d := readDevice(sys, e.Name(), m.Boot.Medium)
		if d.Size > 0 && !d.medium {
			all = append(all, d)
		}
	}
	slices.SortStableFunc(all, func(a, b Device) int { return int((b.Size - a.Size) >> 20) })
	return all, nil
}

func readDevice(sys, name, medium string) Device {
	dir := filepath.Join(sys, name)
	d := Device{Path: "/dev/" + strings.ReplaceAll(name, "!", "/")}
	if n, err := strconv.ParseInt(sysfs(dir, "size"), 10, 64); err == nil {
		d.Size = n * 512
	}
	d.Model = strings.Join(strings.Fields(sysfs(dir, "device/vendor")+" "+sysfs(dir, "device/model")), " ")
	d.removable = sysfs(dir, "removable") == "1"
	d.readOnly = sysfs(dir, "ro") == "1"
	d.medium = d.Path == medium
	for _, p := range blockdev.Partitions(d.Path) {
		d.medium = d.medium || p.Device == medium
		if p.Name == "" {
			p.Name = filepath.Base(p.Device)
		}
		d.Holds = append(d.Holds, p.Name)
	}
	return d
}

func sysfs(dir, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, name)) // an attribute that is not there is empty
	return strings.TrimSpace(string(b))
}

// chooseDevice returns the disk that an installation goes to: the one that is named, or the
// largest one for "auto".
func (m *Machine) chooseDevice(want string) (Device, error) {
	all, err := m.devices()
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
		return Device{}, refuse(
			"this machine has no disk to install to (%s): attach one, or name one with --device",
			strings.Join(append(names, "none"), ", "),
		)
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
	return Device{}, refuse(
		"device %s is no disk that can be installed to (the medium itself, or a partition?); the disks are %s",
		want,
		strings.Join(names, ", "),
	)
}

// openExclusive opens a device that nothing else uses.
func openExclusive(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if !errors.Is(err, unix.EBUSY) {
		return f, err
	}
	var users []string
	for _, u := range blockdev.Users(path) {
		users = append(users, u.String())
	}
	if len(users) > 0 {
		return nil, refuse("device %s is in use: %s", path, strings.Join(users, "; "))
	}
	return nil, refuse("device %s is in use by a program: `fuser -v %s` names it", path, path)
}

// openConfirmed is openExclusive for a disk that a person wants to be erased: what uses it ends, as far as that is
// possible without force.
func openConfirmed(path string, progress Progress) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if !errors.Is(err, unix.EBUSY) {
		return f, err
	}
	ended, err := blockdev.Release(path)
	for _, u := range ended {
		progress.note(fmt.Sprintf("%s: that has ended", u.What))
	}
	if err != nil {
		return nil, refuse("device %s is in use: %v", path, err)
	}
	return openExclusive(path)
}

// installable says why a disk that is open cannot become one that boots, before anything on it is changed.
func installable(f *os.File, sectorSize int64, firmware string) error {
	switch {
	case sectorSize != 512 && sectorSize != 4096:
		return refuse("device %s has sectors of %d bytes: use a disk with 512 or 4096", f.Name(), sectorSize)
	case sectorSize == 4096 && firmware == "bios":
		return refuse(
			"device %s has sectors of 4096 bytes, and BIOS firmware starts no such disk: "+
				"start this medium in UEFI mode",
			f.Name(),
		)
	}
	if err := blockdev.RereadPartitions(f); err != nil {
		return refuse("%v: it would show no partitions after the installation", err)
	}
	return nil
}

// readPartitions makes the kernel reread a disk's partition table, and returns the
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
		for _, p := range blockdev.Partitions(disk) {
			if _, err := os.Stat(p.Device); err == nil && p.Name != "" {
				found[p.Name] = p.Device
			}
		}
		if len(found) >= want {
			return found, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("the new partitions of %s did not appear", f.Name())
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
