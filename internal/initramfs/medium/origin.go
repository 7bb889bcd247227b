package medium

import (
	"fmt"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/initramfs/efi"
	"github.com/kairos-buildkit/kairos/layout"
)

// origin says where the machine was booted from, as the boot loader tells it.
type origin struct {
	boot layout.Boot
	esp  string // partition GUID of the ESP in lower case; empty: a live medium
}

func (f *Finder) readOrigin() (origin, error) {
	if !efi.Firmware() {
		return parseOrigin(f.Cmdline, layout.FirmwareBIOS, func(string) (string, error) { return "", nil })
	}
	unreadable := f.Modules.Load("efivarfs")
	if unreadable == nil {
		unreadable = efi.Mount()
	}
	if unreadable != nil {
		f.Log.Info("%v", unreadable) // the command line may say what is needed
	}
	variable := func(name string) (string, error) {
		if unreadable != nil {
			return "", unreadable
		}
		return efi.Text(name)
	}
	o, err := parseOrigin(f.Cmdline, layout.FirmwareUEFI, variable)
	if err == nil && f.Seal != nil {
		err = f.Seal.Refuse(checkOrigin(o, variable))
	}
	return o, err
}

// checkOrigin refuses a machine that says that it is a live medium and was started from a node's boot entry: so a word
// on the command line, or an entry that names a live medium's profile, would lead away from the node's disk.
func checkOrigin(o origin, variable func(name string) (string, error)) error {
	if o.boot.Role != layout.RoleLive {
		return nil
	}
	image, err := variable(efi.StubImage)
	if err != nil {
		return err
	}
	// On FAT a file has several names: in capitals, and one of eight letters.
	at := strings.LastIndexByte(image, '\\') + 1
	dir := strings.Trim(strings.ReplaceAll(image[:at], `\`, "/"), "/")
	_, err = layout.ParseEntry(image[at:])
	if err == nil || strings.EqualFold(dir, layout.UKIDir) {
		return fmt.Errorf("it was to start as a live medium, and %s is a node's: start the node's entry as it is",
			image)
	}
	return nil
}

// parseOrigin decides between an installed node and a live medium. variable reads a variable of the boot loader; it
// returns "" where there is none. Variables that cannot be read say nothing: a machine whose disk holds a node is not
// taken for one that runs from a medium.
func parseOrigin(
	cmdline layout.Cmdline,
	firmware string,
	variable func(name string) (string, error),
) (origin, error) {
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
	image, err := variable(efi.StubImage)
	if err != nil {
		return o, fmt.Errorf(
			"%w; without them this is not known to be a live medium (%s) or an installed node (%s= and %s=): "+
				"add efi=runtime to the kernel's command line, or what it is",
			err, layout.CmdlineLive, layout.CmdlineESP, layout.CmdlineRelease,
		)
	}
	name := image[strings.LastIndexByte(image, '\\')+1:]
	entry, err := layout.ParseEntry(name)
	if err != nil {
		o.boot.Role = layout.RoleLive
		return o, nil
	}
	o.boot.Release, o.boot.Entry, o.boot.Trial = entry.ID, name, !entry.Blessed()
	if entry.Seq == layout.RecoverySeq {
		o.boot.Role = layout.RoleRecovery
	}
	for _, name := range []string{efi.LoaderPart, efi.StubPart} {
		esp, err := variable(name)
		if err != nil {
			return o, err
		}
		if o.esp == "" {
			o.esp = strings.ToLower(esp)
		}
	}
	if o.esp == "" {
		return o, fmt.Errorf(
			"booted from %s, but the firmware does not say from which partition: "+
				"name it on the kernel's command line with %s=",
			name,
			layout.CmdlineESP,
		)
	}
	return o, nil
}
