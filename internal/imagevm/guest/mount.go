package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/erofs/erofstest"
	"github.com/kairos-buildkit/kairos/internal/blockdev"
	"github.com/kairos-buildkit/kairos/internal/imagevm"
	"github.com/kairos-buildkit/kairos/internal/mount"
)

const mountPoint = "/run/image"

// attach makes a read-only loop device of a part of the disk.
func attach(disk *os.File, p imagevm.Piece) (*os.File, error) {
	return blockdev.Loop(disk, p.Offset, p.Size)
}

func mountImage(device, fsType string) error {
	return mount.On(device, mountPoint, fsType, unix.MS_RDONLY, "")
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
	if err := mountImage(loop.Name(), c.FSType); err != nil {
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
	mapper, err := blockdev.OpenMapper()
	if err != nil {
		return "", nil, err
	}
	dev, err := mapper.Create(name, blockdev.Verity{Device: device, Size: r.DataSize, RootHash: r.RootHash})
	if err != nil {
		return "", nil, errors.Join(err, mapper.Close())
	}
	return dev, func() error { return errors.Join(mapper.Remove(name), mapper.Close()) }, nil
}
