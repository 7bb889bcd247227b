// Package efi reads and sets the variables by which systemd's stub and boot loader talk to the system
// (systemd.io/BOOT_LOADER_INTERFACE).
package efi

import (
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/internal/mount"
)

// The variables: the stub and the loader say from which file and from which partition they were started.
const (
	StubImage  = "StubImageIdentifier"
	LoaderPart = "LoaderDevicePartUUID"
	StubPart   = "StubDevicePartUUID"
)

// stuck counts the starts of the recovery system that failed in a row. It is ours.
const (
	stuck       = "KairosStuck"
	maxFailures = 9
)

const firmwareDir = "/sys/firmware/efi"

// Firmware says whether the machine was started by UEFI.
func Firmware() bool {
	_, err := os.Stat(firmwareDir)
	return err == nil
}

// Mount makes the variables readable, or says why they are not.
func Mount() error {
	err := mount.On("efivarfs", string(efivars.System), "efivarfs", mount.Data, "")
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return errors.Join(efivars.ErrUnreadable, err)
	}
	return efivars.System.Check()
}

// Text reads a text variable of the boot loader. It returns "" where there is none.
func Text(name string) (string, error) {
	b, err := efivars.System.Read(name, efivars.Loader)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", errors.Join(efivars.ErrUnreadable, err)
	}
	return efivars.Text(b), nil
}

// Failures returns how many starts of the recovery system have failed in a row.
func Failures() int {
	b, err := efivars.System.Read(stuck, efivars.Kairos)
	if err != nil {
		return 0
	}
	return parseFailures(efivars.Text(b))
}

func parseFailures(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return min(max(n, 0), maxFailures)
}

// SetFailures keeps that number over a restart. 0 removes the variable.
func SetFailures(n int) error {
	if n == 0 {
		return efivars.System.Remove(stuck, efivars.Kairos)
	}
	return efivars.System.Write(stuck, efivars.Kairos, efivars.FromText(strconv.Itoa(min(n, maxFailures))))
}
