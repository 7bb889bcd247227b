package main

import (
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// growLast lets the disk's last partition take the space behind it: a raw image is smaller than the disk
// that it was written to. It does so again when a virtual disk was enlarged.
func growLast(device string, t *gpt, name string) error {
	p, changed := t.grow(name)
	if !changed {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("grow partition %s of %s: %w", name, device, err) }
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	mbr := make([]byte, t.blockSize)
	if _, err := f.ReadAt(mbr, 0); err != nil {
		return fail(err)
	}
	if err := t.write(f, mbr, f.Sync); err != nil {
		return fail(err)
	}
	if err := resizePartition(f, p, t.blockSize); err != nil {
		return fail(err)
	}
	return nil
}

// resizePartition tells the kernel a partition's size. Unlike reading the whole table again, that
// works while the disk is in use.
func resizePartition(disk *os.File, p partition, blockSize int64) error {
	// struct blkpg_partition of linux/blkpg.h
	data := struct {
		start, length int64
		number        int32
		_             [64]byte
		_             [64]byte
		_             int32
	}{start: p.first * blockSize, length: (p.last - p.first + 1) * blockSize, number: int32(p.number)}
	arg := unix.BlkpgIoctlArg{Op: unix.BLKPG_RESIZE_PARTITION, Datalen: int32(unsafe.Sizeof(data)), Data: (*byte)(unsafe.Pointer(&data))}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return fmt.Errorf("tell the kernel: %w", errno)
	}
	return nil
}

// growExt4 lets a mounted ext4 take the whole of its partition.
func growExt4(dir, device string) error {
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
	const worthwhile = 4 << 20
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

// ext4Blocks reads the number of blocks from the superblock (kernel documentation: ext4, the super
// block): s_blocks_count_lo at 4, s_blocks_count_hi at 0x150.
func ext4Blocks(device *os.File) (uint64, error) {
	var sb [1024]byte
	if _, err := device.ReadAt(sb[:], 1024); err != nil {
		return 0, err
	}
	return uint64(le.Uint32(sb[4:])) | uint64(le.Uint32(sb[0x150:]))<<32, nil
}
