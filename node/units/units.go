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
}

//go:embed kairos.openrc
var openRC []byte

//go:embed kairos.sysv
var sysV []byte

// OpenRC is the script for OpenRC.
func OpenRC() Script {
	return Script{Path: "etc/init.d/kairos", Data: openRC, Links: []string{"etc/runlevels/default/kairos"}}
}

// SysV is the script for sysvinit.
func SysV() Script {
	s := Script{Path: "etc/init.d/kairos", Data: sysV}
	for _, level := range []string{"2", "3", "4", "5"} {
		s.Links = append(s.Links, "etc/rc"+level+".d/S99kairos")
	}
	return s
}
