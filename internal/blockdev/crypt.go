package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/disk/luks"
)

// Crypt is what a dm-crypt device decrypts, of a LUKS2 volume.
type Crypt struct {
	Device string // that has the volume
	UUID   string // of the volume
	luks.Mapping
	Key []byte // the volume's
}

// Crypt makes a device that shows a volume decrypted, and returns its path. A device that has the name shows this
// volume from now on. The key goes to the kernel as one that no program reads (keyrings(7), "logon"), and is in no
// keyring when this returns.
func (m *Mapper) Crypt(name string, c Crypt) (path string, err error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("dm-crypt for %s: %w", c.Device, err) }
	// A thread's keyring is searched for it on this thread alone.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	description := "kairos:" + name
	key, err := unix.AddKey("logon", description, c.Key, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return fail(fmt.Errorf("give the key to the kernel: %w", err))
	}
	defer func() {
		if _, e := unix.KeyctlInt(unix.KEYCTL_UNLINK, key, unix.KEY_SPEC_THREAD_KEYRING, 0, 0); e != nil {
			err = errors.Join(err, fmt.Errorf("take the key out of the keyring: %w", e))
		}
	}()
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	defer control.Close()
	uuid := "CRYPT-LUKS2-" + strings.ReplaceAll(c.UUID, "-", "") + "-" + name // as cryptsetup has it
	dev, err := mapperCall(control, deviceStatus, name, "", nil)
	made := errors.Is(err, unix.ENXIO)
	if made {
		dev, err = mapperCall(control, deviceCreate, name, uuid, nil)
	}
	if err != nil {
		return fail(err)
	}
	_, err = mapperCall(control, tableLoad, name, "", c.target(description))
	if err == nil {
		err = m.control.SuspendDevice(name, false) // resumes, with the new table
	}
	if err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%w: the kernel lacks dm-crypt, aes or xts", err)
		}
		if made {
			err = errors.Join(err, m.Remove(name))
		}
		return fail(err)
	}
	return "/dev/dm-" + strconv.Itoa(int(unix.Minor(dev))), nil
}

// OpenVolume makes a device that shows a volume decrypted, by its key, and returns its path.
func OpenVolume(name string, device *os.File, h *luks.Header, key []byte) (string, error) {
	size, err := Size(device)
	if err != nil {
		return "", err
	}
	mapping, err := h.Mapping(size)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", device.Name(), err)
	}
	m, err := OpenMapper()
	if err != nil {
		return "", err
	}
	path, err := m.Crypt(name, Crypt{Device: device.Name(), UUID: h.UUID, Mapping: mapping, Key: key})
	return path, errors.Join(err, m.Close())
}

// CloseVolume takes away what [OpenVolume] made.
func CloseVolume(name string) error {
	m, err := OpenMapper()
	if err != nil {
		return err
	}
	return errors.Join(m.Remove(name), m.Close())
}

// params returns dm-crypt's parameters (kernel documentation: device-mapper/dm-crypt).
func (c Crypt) params(description string) string {
	var options []string
	if c.Discards {
		options = append(options, "allow_discards")
	}
	if c.SectorSize != 512 {
		options = append(options, fmt.Sprintf("sector_size:%d", c.SectorSize))
	}
	s := fmt.Sprintf("%s :%d:logon:%s %d %s %d", c.Cipher, len(c.Key), description, c.Tweak, c.Device, c.Offset/512)
	if len(options) > 0 {
		s += fmt.Sprintf(" %d %s", len(options), strings.Join(options, " "))
	}
	return s
}

// target is a table of one target: struct dm_target_spec of linux/dm-ioctl.h, and its parameters.
func (c Crypt) target(description string) []byte {
	params := c.params(description)
	b := make([]byte, (targetSize+len(params)+1+7)&^7)
	binary.NativeEndian.PutUint64(b[8:], uint64(c.Size/512))
	copy(b[24:], "crypt")
	copy(b[targetSize:], params)
	return b
}

// Calls of the device mapper (linux/dm-ioctl.h), whose library maps for reading alone.
const (
	deviceCreate, deviceStatus, tableLoad = 3, 7, 9

	callSize, targetSize = 312, 40 // of struct dm_ioctl and dm_target_spec
	secureData           = 1 << 15 // DM_SECURE_DATA_FLAG
)

// mapperCall makes one call, and returns the numbers of the device.
func mapperCall(control *os.File, call uintptr, name, uuid string, target []byte) (uint64, error) {
	b, ne := make([]byte, callSize+len(target)), binary.NativeEndian
	ne.PutUint32(b, 4)                   // version
	ne.PutUint32(b[12:], uint32(len(b))) // data_size
	ne.PutUint32(b[16:], callSize)       // data_start
	ne.PutUint32(b[28:], secureData)     // flags
	copy(b[48:48+127], name)             // name
	copy(b[176:176+128], uuid)           // uuid
	if copy(b[callSize:], target) > 0 {
		ne.PutUint32(b[20:], 1) // target_count
	}
	request := 3<<30 | callSize<<16 | 0xfd<<8 | call // _IOWR
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), request, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return 0, fmt.Errorf("device mapper's call %d for %s: %w", call, name, errno)
	}
	return ne.Uint64(b[40:]), nil
}
