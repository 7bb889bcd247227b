package layout

// Paths in an image of what starts the node agent there.
const (
	ImageBlessUnit  = "usr/lib/systemd/system/kairos-bless.service"
	ImageInittab    = "etc/inittab"
	ImageInitScript = "etc/init.d/kairos"
	// ImageRunlevel is the link that enables ImageInitScript with OpenRC.
	ImageRunlevel = "etc/runlevels/default/kairos"

	// InittabProgram is what a line of ImageInittab starts.
	InittabProgram = "/" + ImageInitScript + " start"
)

// Starter is what starts the node agent when an image's init is up, in words for a person.
type Starter string

// Starters.
const (
	BySystemd Starter = "systemd units"
	ByOpenRC  Starter = "an OpenRC script"
	BySysV    Starter = "a line of sysvinit's /etc/inittab"
	ByBusyBox Starter = "a line of BusyBox' /etc/inittab"
	// ByGuard: the guard that /init leaves behind blesses, and nothing else of the agent is started.
	ByGuard Starter = "Kairos' guard, since the image has no init that Kairos has units or scripts for"
)

// Starting is what an image has to start the node agent with.
type Starting struct {
	Init     string // name of the program that is its init, where links lead
	Unit     bool   // ImageBlessUnit
	Runlevel bool   // ImageRunlevel
	Line     bool   // ImageInittab has InittabProgram
}

// Starter says what starts the node agent.
func (s Starting) Starter() Starter {
	switch {
	case s.Init == "systemd" && s.Unit:
		return BySystemd
	case s.Init == "systemd":
		return ByGuard
	case s.Runlevel:
		return ByOpenRC
	case s.Line && s.Init == "busybox":
		return ByBusyBox
	case s.Line && (s.Init == "init" || s.Init == "sysvinit"):
		return BySysV
	}
	return ByGuard
}
