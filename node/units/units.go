// Package units holds what starts the node agent in an image: systemd units, and a script for
// other inits. They start
// nothing where there is nothing to do: in a container, on a live medium without an
// unattended install, on a node whose release is already blessed.
package units

import (
	"embed"

	"github.com/kairos-buildkit/kairos/layout"
)

// FS has one file for each unit. Its [Install] section says what enables it.
//
//go:embed *.service *.timer
var FS embed.FS

// Masked are units of other packages that would do what ours do: an image links them to
// /dev/null. systemd's own blessing knows neither our health checks nor GRUB's counters.
func Masked() []string { return []string{"systemd-bless-boot.service"} }

// Script is an init script for an image that has another init than systemd.
type Script struct {
	Path  string   // in the image
	Data  []byte   // mode 0755
	Links []string // links to it, which enable it
	// Inittab is a line of /etc/inittab that starts it, for the init that reads that file.
	Inittab string
}

// ShutdownHook is what systemd is to run at the very end.
//
//go:embed kairos.shutdown
var ShutdownHook []byte

//go:embed kairos.openrc
var openRC []byte

//go:embed kairos.sysv
var sysV []byte

// OpenRC is the script for OpenRC.
func OpenRC() Script {
	return Script{Path: layout.ImageInitScript, Data: openRC, Links: []string{layout.ImageRunlevel}}
}

// BusyBox is the script for BusyBox' init. The first field of its inittab is the terminal that a
// program gets, where sysvinit has a name: a line of sysvinit's never starts there.
func BusyBox() Script {
	return Script{Path: layout.ImageInitScript, Data: sysV, Inittab: "::once:" + layout.InittabProgram}
}

// SysV is the script for sysvinit. Links in /etc/rc?.d would not do: Debian's startpar starts what
// insserv has written down when the package was installed, and nothing else. Process 1 itself starts
// the script when it is done with the runlevel.
func SysV() Script {
	return Script{Path: layout.ImageInitScript, Data: sysV, Inittab: "kair:2345:once:" + layout.InittabProgram}
}
