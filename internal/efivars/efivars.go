// Package efivars reads and changes the firmware's variables, as Linux shows them below /sys/firmware/efi/efivars: a
// file for each, named <name>-<vendor's GUID>, with four bytes of attributes before the content.
//
// Reference: UEFI specification 2.10, sections 3.1.3 (load options), 3.3 (variables) and 8.2; Linux, efivarfs.
package efivars

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// Vendors of variables.
const (
	Global = "8be4df61-93ca-11d2-aa0d-00e098032b8c" // the UEFI specification's
	Loader = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f" // systemd.io/BOOT_LOADER_INTERFACE
	Kairos = "8a4d2c5e-0f0b-4c56-9d3a-6b7c1e2f9a10"
)

// Dir is the directory of the variables.
type Dir string

// System is where the kernel shows them.
const System Dir = "/sys/firmware/efi/efivars"

// ErrUnreadable says that a machine has UEFI firmware, and that its variables cannot be read.
var ErrUnreadable = errors.New("the firmware's variables cannot be read")

const attributesSize = 4

// attributes of what is written: non-volatile, and seen by boot loader and system.
const attributes = 1 | 2 | 4

// Check says why no variable can be read: there is none where the kernel has no access to them.
func (d Dir) Check() error {
	files, err := os.ReadDir(string(d))
	if err == nil && len(files) > 0 {
		return nil
	}
	why := "there are none"
	if err != nil {
		why = err.Error()
	}
	return fmt.Errorf("%w (%s): start the kernel with efi=runtime, and with one that has efivarfs", ErrUnreadable, why)
}

func (d Dir) path(name, vendor string) string { return filepath.Join(string(d), name+"-"+vendor) }

// Read returns a variable's content; one that does not exist is [fs.ErrNotExist].
func (d Dir) Read(name, vendor string) ([]byte, error) {
	b, err := os.ReadFile(d.path(name, vendor))
	if err != nil {
		return nil, fmt.Errorf("firmware's variable %s: %w", name, err)
	}
	if len(b) < attributesSize {
		return nil, fmt.Errorf("firmware's variable %s: %d bytes", name, len(b))
	}
	return b[attributesSize:], nil
}

// Names lists a vendor's variables.
func (d Dir) Names(vendor string) ([]string, error) {
	files, err := os.ReadDir(string(d))
	if err != nil {
		return nil, fmt.Errorf("firmware's variables: %w", err)
	}
	var names []string
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), "-"+vendor); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// Write gives a variable this content. One that has it is left alone: the firmware's memory wears.
func (d Dir) Write(name, vendor string, content []byte) error {
	have, err := d.Read(name, vendor)
	switch {
	case err == nil && bytes.Equal(have, content):
		return nil
	case err == nil:
		if err := mutable(d.path(name, vendor)); err != nil {
			return explain("change", name, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// One write: the kernel takes each for the whole content.
	b := append([]byte{attributes, 0, 0, 0}, content...)
	if err := os.WriteFile(d.path(name, vendor), b, 0o644); err != nil {
		return explain("write", name, err)
	}
	return nil
}

// Remove removes a variable. That there is none is no error.
func (d Dir) Remove(name, vendor string) error {
	path := d.path(name, vendor)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := mutable(path); err != nil {
		return explain("remove", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return explain("remove", name, err)
	}
	return nil
}

// explain says what a person can do.
func explain(do, name string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
		hint = ": the firmware's memory is full; remove boot entries that nothing needs in the firmware's setup"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.EROFS),
		errors.Is(err, unix.EINVAL):
		hint = ": the firmware does not let it be changed; choose what starts in the firmware's setup"
	}
	return fmt.Errorf("%s the firmware's variable %s: %w%s", do, name, err, hint)
}

// immutable is FS_IMMUTABLE_FL of linux/fs.h: the kernel protects variables that it does not know.
const immutable = 0x10

// mutable takes the attribute "immutable" off a file.
func mutable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // such a file system has no such attribute
	}
	if err != nil || flags&immutable == 0 {
		return err
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable)
}

// Text is a text variable's content: UTF-16 up to a NUL.
func Text(content []byte) string {
	var text []uint16
	for i := 0; i+1 < len(content); i += 2 {
		c := binary.LittleEndian.Uint16(content[i:])
		if c == 0 {
			break
		}
		text = append(text, c)
	}
	return string(utf16.Decode(text))
}

// FromText is the inverse of [Text], with the NUL.
func FromText(s string) []byte {
	var b []byte
	for _, c := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

// numbers reads BootOrder: 16-bit numbers.
func numbers(content []byte) []uint16 {
	var all []uint16
	for i := 0; i+1 < len(content); i += 2 {
		all = append(all, binary.LittleEndian.Uint16(content[i:]))
	}
	return all
}

func fromNumbers(all ...uint16) []byte {
	var b []byte
	for _, n := range all {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	return b
}

// without returns the numbers that are not n.
func without(all []uint16, n uint16) []uint16 {
	return slices.DeleteFunc(slices.Clone(all), func(x uint16) bool { return x == n })
}
