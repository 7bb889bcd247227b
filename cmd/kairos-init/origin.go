package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// origin says where the machine was booted from, as the boot loader tells it.
type origin struct {
	boot layout.Boot
	esp  string // partition GUID of the ESP in lower case; empty: a live medium
}

// The boot loader interface's variables (systemd.io/BOOT_LOADER_INTERFACE): the stub and the loader
// say from which file and from which partition they were started.
const (
	loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	efivars      = "/sys/firmware/efi/efivars"

	stubImage     = "StubImageIdentifier"
	loaderPart    = "LoaderDevicePartUUID"
	stubPart      = "StubDevicePartUUID"
	loaderOneShot = "LoaderEntryOneShot"
)

func (m *machine) readOrigin() (origin, error) {
	firmware := "bios"
	read := func(string) string { return "" }
	if isDir("/sys/firmware/efi") {
		firmware = "uefi"
		if err := m.mountEFIVariables(); err != nil {
			// GRUB says what we need on the command line; without it this is a live medium.
			m.log.info("%v", err)
		}
		read = readLoaderVariable
	}
	return parseOrigin(m.cmdline, firmware, read)
}

func (m *machine) mountEFIVariables() error {
	if err := m.modules.load("efivarfs"); err != nil {
		return err
	}
	err := mount("efivarfs", efivars, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}

// parseOrigin decides between an installed node and a live medium. variable reads a variable of the
// boot loader; it returns "" where there is none.
func parseOrigin(cmdline layout.Cmdline, firmware string, variable func(name string) string) (origin, error) {
	o := origin{boot: layout.Boot{Role: layout.RoleSystem, Firmware: firmware}}
	o.boot.Release, _ = cmdline.Get(layout.CmdlineRelease)
	if _, live := cmdline.Get(layout.CmdlineLive); live {
		o.boot.Role = layout.RoleLive
		return o, nil
	}
	// GRUB says it on the command line.
	if esp, ok := cmdline.Get(layout.CmdlineESP); ok {
		o.esp = strings.ToLower(esp)
		if role, _ := cmdline.Get(layout.CmdlineRole); role == layout.RoleRecovery {
			o.boot.Role = layout.RoleRecovery
		}
		_, o.boot.Trial = cmdline.Get(layout.CmdlineTries)
		return o, nil
	}
	// The stub's file name says it. A live medium has another name, or none.
	image := variable(stubImage)
	name := image[strings.LastIndexByte(image, '\\')+1:]
	entry, err := layout.ParseEntry(name)
	if err != nil {
		o.boot.Role = layout.RoleLive
		return o, nil
	}
	o.boot.Release, o.boot.Entry, o.boot.Trial = entry.ID, name, entry.Counted
	if entry.Seq == layout.RecoverySeq {
		o.boot.Role = layout.RoleRecovery
	}
	if o.esp = strings.ToLower(variable(loaderPart)); o.esp == "" {
		o.esp = strings.ToLower(variable(stubPart))
	}
	if o.esp == "" {
		return o, fmt.Errorf("booted from %s, but the firmware does not say from which partition: name it on the kernel's command line with %s=", name, layout.CmdlineESP)
	}
	return o, nil
}

// readLoaderVariable reads a text variable: four bytes of attributes, then UTF-16 with a NUL.
func readLoaderVariable(name string) string {
	b, err := os.ReadFile(efivars + "/" + name + "-" + loaderVendor)
	if err != nil {
		return ""
	}
	return parseEFIText(b)
}

func parseEFIText(b []byte) string {
	if len(b) < 4 {
		return ""
	}
	var text []uint16
	for i := 4; i+1 < len(b); i += 2 {
		c := uint16(b[i]) | uint16(b[i+1])<<8
		if c == 0 {
			break
		}
		text = append(text, c)
	}
	return string(utf16.Decode(text))
}

// writeLoaderVariable sets a text variable that outlives a restart.
func writeLoaderVariable(name, value string) error {
	const nonVolatile, bootService, runtime = 1, 2, 4
	b := []byte{nonVolatile | bootService | runtime, 0, 0, 0}
	for _, c := range append(utf16.Encode([]rune(value)), 0) {
		b = append(b, byte(c), byte(c>>8))
	}
	if err := os.WriteFile(efivars+"/"+name+"-"+loaderVendor, b, 0o644); err != nil {
		return fmt.Errorf("set the firmware's variable %s: %w", name, err)
	}
	return nil
}
