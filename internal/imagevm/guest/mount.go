package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/go-dmverity/pkg/dm"
	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/erofs/erofstest"
	"github.com/kairos-buildkit/kairos/internal/imagevm"
	"github.com/kairos-buildkit/kairos/verity"
)

const mountPoint = "/run/image"

// attach makes a read-only loop device of a part of the disk.
func attach(disk *os.File, p imagevm.Piece) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, err
	}
	loop, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	c := unix.LoopConfig{Fd: uint32(disk.Fd())}
	c.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	c.Info.Offset, c.Info.Sizelimit = uint64(p.Offset), uint64(p.Size)
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &c); err != nil {
		loop.Close()
		return nil, fmt.Errorf("configure %s: %w", loop.Name(), err)
	}
	return loop, nil
}

func mount(device, fsType string) error {
	if err := os.MkdirAll(mountPoint, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, mountPoint, fsType, unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s as %s: %w", device, fsType, err)
	}
	return nil
}

func check(disk *os.File, c imagevm.Check) (err error) {
	lines := make([]byte, c.Lines.Size)
	if _, err := disk.ReadAt(lines, c.Lines.Offset); err != nil {
		return err
	}
	loop, err := attach(disk, c.Image)
	if err != nil {
		return err
	}
	defer loop.Close()
	if err := mount(loop.Name(), c.FSType); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Unmount(mountPoint, 0)) }()
	files, err := erofstest.WalkDir(mountPoint)
	if err != nil {
		return err
	}
	want, got := strings.Split(string(lines), "\n"), erofstest.Lines(files)
	for i := range max(len(want), len(got)) {
		w, g := "nothing", "nothing"
		if i < len(want) {
			w = want[i]
		}
		if i < len(got) {
			g = got[i]
		}
		if w != g {
			return fmt.Errorf("want %.300s | the kernel sees %.300s", w, g)
		}
	}
	return nil
}

// openVerity returns a device that checks what is read from the image's device.
func openVerity(name, device string, r imagevm.Read) (string, func() error, error) {
	control, err := dm.Open()
	if err != nil {
		return "", nil, err
	}
	dev, err := control.CreateDevice(name)
	if err != nil {
		return "", nil, err
	}
	blocks := r.DataSize / verity.BlockSize
	params := fmt.Sprintf("1 %s %s %d %d %d %d %s %s %s", device, device, verity.BlockSize, verity.BlockSize, blocks, blocks+1,
		verity.Algorithm, r.RootHash, verity.Salt)
	if err := control.LoadTable(name, []dm.Target{{Length: uint64(r.DataSize / 512), Type: "verity", Params: params}}); err != nil {
		return "", nil, fmt.Errorf("dm-verity table: %w", err)
	}
	if err := control.SuspendDevice(name, false); err != nil {
		return "", nil, err
	}
	remove := func() error { return errors.Join(control.RemoveDevice(name), control.Close()) }
	return "/dev/dm-" + strconv.Itoa(int(unix.Minor(dev))), remove, nil
}
