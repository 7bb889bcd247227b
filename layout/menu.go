package layout

import (
	"fmt"
	"strings"
)

// Profile is another way to start what a UKI holds: words that are added to its command line. The profiles are in the
// UKI, so that they are under the same signature; a boot loader names one by its number.
type Profile struct {
	ID    string
	Title string // in systemd-boot's menu, behind the UKI's name
	Words string
	// Hidden: systemd-boot lists it only where an entry of its own names it, since it is for one role alone.
	Hidden bool
}

// Numbers of the profiles, as a boot loader names them: @1, …. Number 0 is the UKI as it is.
const (
	ProfileDebug = 1 + iota
	ProfileReset
	ProfileLive
	ProfileInstall
	ProfileUnattended
	ProfileCheck
)

// Profiles are the profiles of each UKI, in the order of their numbers, from 1.
func Profiles() []Profile {
	return []Profile{
		{ID: "debug", Title: "debug", Words: debugWords},
		{ID: "reset", Title: "reset", Words: CmdlineReset, Hidden: true},
		{ID: "live", Title: "live", Words: CmdlineLive, Hidden: true},
		{ID: "install", Title: "install", Words: CmdlineLive + " " + CmdlineInstall + "=" + InstallAsk, Hidden: true},
		{ID: "unattended", Title: "install unattended", Words: CmdlineLive + " " + CmdlineInstall + "=" + InstallAuto,
			Hidden: true},
		{ID: "check", Title: "check medium", Words: CmdlineLive + " " + CmdlineCheck, Hidden: true},
	}
}

// Section returns a profile's section .profile (UAPI Group Specifications: UKI).
func (p Profile) Section() []byte { return []byte("ID=" + p.ID + "\nTITLE=" + p.Title + "\n") }

// HiddenOSRelease is the section .osrel of a profile that systemd-boot does not list by itself: it names no system.
const HiddenOSRelease = "# listed by an entry of its own\n"

// debugWords have the kernel, /init and systemd say all that they do.
const debugWords = CmdlineDebug + " loglevel=7 systemd.log_level=debug"

// EntryOSReleaseSize is the length in bytes of a UKI's section .osrel: a disk writes it as one sector.
const EntryOSReleaseSize = 512

// entryNameKey is the line of that section with the name alone.
const entryNameKey = "KAIROS_NAME"

// EntryOSRelease returns a UKI's section .osrel: its name in the boot menu, such as "Debian GNU/Linux 13 - v1.4", and
// what it is on this disk, such as "active". systemd-boot orders entries by their file names as long as this has no
// version and one ID for all.
func EntryOSRelease(name, state string) []byte {
	name, state = menuText(name, 120), menuText(state, 40)
	title := name
	if title == "" {
		title = "Kairos"
	}
	if state != "" {
		title += " - " + state
	}
	text := "ID=kairos\nNAME=Kairos\n" + OSReleaseLine("PRETTY_NAME", title) + OSReleaseLine(entryNameKey, name)
	return []byte(text + strings.Repeat("\n", EntryOSReleaseSize-len(text)))
}

// ParseEntryName returns the name in such a section, and whether it is one.
func ParseEntryName(osRelease []byte) (string, bool) {
	if len(osRelease) != EntryOSReleaseSize {
		return "", false
	}
	name, ok := ParseOSRelease(osRelease)[entryNameKey]
	return name, ok
}

// EntryName is the name of a release in boot menus: its distribution and its version.
func EntryName(osRelease []byte, version string) string {
	vars := ParseOSRelease(osRelease)
	name := vars["PRETTY_NAME"]
	if name == "" {
		name = vars["NAME"]
	}
	if name == "" {
		name = "Kairos"
	}
	if name, version = menuText(name, 80), menuText(version, 37); version != "" {
		name += " - " + version
	}
	return name
}

// menuText keeps what each firmware's console and each boot loader shows as it is.
func menuText(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune("\"'\\$`", r) {
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), limit)])
}

// ResetEntry is the file of systemd-boot's entry that resets a node: a profile of the recovery system. It has no tries
// left from the start, so that the loader comes to it after everything else: only a person, or a command, chooses it.
const (
	LoaderEntries = "loader/entries"
	ResetEntry    = LoaderEntries + "/kairos-reset+0-1.conf"
)

// ResetEntryText is its content, for the recovery system with this id and name.
func ResetEntryText(id, name string) []byte {
	if name = menuText(name, 120); name == "" {
		name = "Kairos"
	}
	uki := Entry{Seq: RecoverySeq, ID: id}.String()
	return fmt.Appendf(nil, "title %s - reset: erase what this machine keeps\nefi /%s/%s\noptions @%d\n",
		name, UKIDir, uki, ProfileReset)
}

// LiveUKI is the UKI on a live medium's EFI system partition. It is none that a boot loader lists by itself.
const LiveUKI = "EFI/kairos/kairos.efi"

// LiveChoice is an entry of a live medium's boot menu.
type LiveChoice struct {
	ID, Title string
	Profile   int
}

// Words are added to the kernel's command line.
func (c LiveChoice) Words() string { return Profiles()[c.Profile-1].Words }

// LiveChoices is a live medium's boot menu, for the system of this name. The first one starts by itself.
func LiveChoices(name string) []LiveChoice {
	name = menuText(name, 120)
	return []LiveChoice{
		{"run", "Run " + name, ProfileLive},
		{"install", "Install " + name, ProfileInstall},
		{"unattended", "Install " + name + " without asking", ProfileUnattended},
		{"check", "Check this medium, and run " + name, ProfileCheck},
	}
}

// EntryPath returns the path of systemd-boot's entry for a choice.
func (c LiveChoice) EntryPath() string { return LoaderEntries + "/kairos-" + c.ID + ".conf" }

// EntryText returns its content.
func (c LiveChoice) EntryText() []byte {
	return fmt.Appendf(nil, "title %s\nsort-key %d\nefi /%s\noptions @%d\n", c.Title, c.Profile, LiveUKI, c.Profile)
}

// LiveLoaderConfigText is systemd-boot's configuration on a live medium. Nothing counts there.
const LiveLoaderConfigText = "timeout 3\nconsole-mode keep\neditor no\ndefault kairos-run.conf\n"
