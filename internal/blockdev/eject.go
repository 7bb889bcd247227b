package blockdev

import (
	"fmt"
	"regexp"
	"unsafe"

	"golang.org/x/sys/unix"
)

// drive is the name of a drive for CDs and DVDs, also of one that a machine's management controller makes up.
var drive = regexp.MustCompile(`^/dev/sr[0-9]+$`)

// IsDrive says whether a device is a drive whose medium can be ejected: never a disk or a stick.
func IsDrive(device string) bool { return drive.MatchString(device) }

// ejectCommands have a drive give its medium away: PREVENT ALLOW MEDIUM REMOVAL with "allow", for the kernel locks the
// drive of a mounted medium, and START STOP UNIT with "load or eject" (SCSI Primary Commands, SCSI Block Commands).
var ejectCommands = [][6]byte{
	{0x1e, 0, 0, 0, 0x00, 0},
	{0x1b, 0, 0, 0, 0x02, 0},
}

// sgHeader is struct sg_io_hdr of Linux' scsi/sg.h.
type sgHeader struct {
	interfaceID   int32
	direction     int32
	commandLength uint8
	senseSize     uint8
	_             uint16
	_             uint32
	data          uintptr
	command       *[6]byte
	sense         *[32]byte
	timeout       uint32 // milliseconds
	flags         uint32
	_             int32
	_             uintptr
	status        uint8
	_, _, _       uint8
	hostStatus    uint16
	driverStatus  uint16
	_             int32
	_             uint32
	_             uint32
}

const (
	sgIO            = 0x2285
	sgDirectionNone = -1
)

// Eject has a drive eject its medium, mounted or not: CDROMEJECT refuses one that is mounted. Whoever reads it
// afterwards gets errors.
func Eject(device string) error {
	fail := func(err error) error { return fmt.Errorf("eject %s: %w", device, err) }
	if !IsDrive(device) {
		return fail(fmt.Errorf("it is no drive for CDs: %w", unix.ENOTTY))
	}
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	for _, command := range ejectCommands {
		err = nil // what comes last decides: a drive may have its first answer for something else
		var sense [32]byte
		h := sgHeader{
			interfaceID: 'S', direction: sgDirectionNone, commandLength: uint8(len(command)), command: &command,
			senseSize: uint8(len(sense)), sense: &sense, timeout: 5000,
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), sgIO, uintptr(unsafe.Pointer(&h))); errno != 0 {
			err = fail(errno)
		} else if h.status|uint8(h.hostStatus)|uint8(h.driverStatus) != 0 {
			err = fail(fmt.Errorf("SCSI command %#x: status %#x, sense %x", command[0], h.status, sense[:16]))
		}
	}
	return err
}
