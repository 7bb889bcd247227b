// Package units holds what starts the node agent in an image: systemd units, and a script for
// other inits. They start
// nothing where there is nothing to do: in a container, on a live medium without an
// unattended install, on a node whose release is already blessed.
package units

import "embed"

// FS has one file for each unit. Its [Install] section says what enables it.
//
//go:embed *.service
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

//go:embed kairos.openrc
var openRC []byte

//go:embed kairos.sysv
var sysV []byte

// OpenRC is the script for OpenRC.
func OpenRC() Script {
	return Script{Path: "etc/init.d/kairos", Data: openRC, Links: []string{"etc/runlevels/default/kairos"}}
}

// SysV is the script for sysvinit. Links in /etc/rc?.d would not do: Debian's startpar starts what
// insserv has written down when the package was installed, and nothing else. Process 1 itself starts
// the script when it is done with the runlevel.
func SysV() Script {
	return Script{Path: "etc/init.d/kairos", Data: sysV, Inittab: "kair:2345:once:/etc/init.d/kairos start"}
}
