// Package blockdev asks the kernel for what it does with block devices: loop devices, dm-verity, sizes, partitions.
package blockdev

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SectorSize returns the size of a device's logical sectors in bytes.
func SectorSize(device *os.File) (int64, error) {
	n, err := unix.IoctlGetInt(int(device.Fd()), unix.BLKSSZGET)
	if err != nil {
		return 0, fmt.Errorf("sector size of %s: %w", device.Name(), err)
	}
	return int64(n), nil
}

// Size returns the size of a device in bytes.
func Size(device *os.File) (int64, error) {
	size, err := device.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", device.Name(), err)
	}
	return size, nil
}

// RereadPartitions has the kernel read a disk's partition table again. No partition of it may be in use.
func RereadPartitions(disk *os.File) error {
	if err := unix.IoctlSetInt(int(disk.Fd()), unix.BLKRRPART, 0); err != nil {
		return fmt.Errorf("have the kernel read the partition table of %s: %w", disk.Name(), err)
	}
	return nil
}

// ResizePartition tells the kernel where a partition of a disk begins and how long it is, in bytes. Unlike reading the
// whole table again, that works while the disk is in use.
func ResizePartition(disk *os.File, number int, start, length int64) error {
	// struct blkpg_partition of linux/blkpg.h
	data := struct {
		start, length int64
		number        int32
		_             [64]byte
		_             [64]byte
		_             int32
	}{start: start, length: length, number: int32(number)}
	arg := unix.BlkpgIoctlArg{
		Op:      unix.BLKPG_RESIZE_PARTITION,
		Datalen: int32(unsafe.Sizeof(data)),
		Data:    (*byte)(unsafe.Pointer(&data)),
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return fmt.Errorf("tell the kernel the size of partition %d of %s: %w", number, disk.Name(), errno)
	}
	return nil
}

// GrowExt4 lets a mounted ext4 take the whole of its partition.
func GrowExt4(dir, device string) error {
	fail := func(err error) error { return fmt.Errorf("grow the file system on %s: %w", device, err) }
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fail(err)
	}
	d, err := os.Open(device)
	if err != nil {
		return fail(err)
	}
	defer d.Close()
	size, err := d.Seek(0, io.SeekEnd)
	if err != nil {
		return fail(err)
	}
	have, err := ext4Blocks(d)
	if err != nil {
		return fail(err)
	}
	blocks := uint64(size) / uint64(st.Bsize)
	if blocks < have || (blocks-have)*uint64(st.Bsize) < worthwhile {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	const resizeFS = 0x40086610 // EXT4_IOC_RESIZE_FS
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return fail(errno)
	}
	return nil
}

// worthwhile is the space in bytes for which a file system is grown.
const worthwhile = 4 << 20

// Ext4Small says whether an ext4 of blocks of 4096 bytes is so much smaller than its partition that it is to grow.
func Ext4Small(device string) (bool, error) {
	d, err := os.Open(device)
	if err != nil {
		return false, err
	}
	defer d.Close()
	size, err := Size(d)
	if err != nil {
		return false, err
	}
	have, err := ext4Blocks(d)
	return err == nil && size-int64(have)*4096 >= worthwhile, err
}

// ext4Blocks reads the number of blocks from the superblock (kernel documentation: ext4, the super
// block): s_blocks_count_lo at 4, s_blocks_count_hi at 0x150.
func ext4Blocks(device *os.File) (uint64, error) {
	var sb [1024]byte
	if _, err := device.ReadAt(sb[:], 1024); err != nil {
		return 0, err
	}
	return uint64(binary.LittleEndian.Uint32(sb[4:])) | uint64(binary.LittleEndian.Uint32(sb[0x150:]))<<32, nil
}
