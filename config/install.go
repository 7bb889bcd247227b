package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

// Install is the block install:, as far as it takes effect.
type Install struct {
	Auto   bool
	Device string // auto, a path, or script:// and a program; "" where it is not said
	// Source and RecoverySource are images to install in place of the medium's.
	Source, RecoverySource string
	Reboot, PowerOff       bool
	NoFormat, Force        bool
	// Sizes are partitions' sizes in bytes, by name, where they are not the default.
	Sizes map[string]int64
	// Extra are partitions after the six.
	Extra                       []ExtraPartition
	BindMounts, EphemeralMounts []string
	// Encrypted are the names of the partitions that are encrypted: "oem", "persistent".
	Encrypted []string
	// Cmdline are words for the kernel's command line.
	Cmdline string
	// Env are variables of the stages and of the program that run during the installation.
	Env map[string]string
	// SSHHardening has SSH take keys alone.
	SSHHardening bool
}

// ExtraPartition is a partition after the six.
type ExtraPartition struct {
	Name, Label string
	Size        int64  // bytes; 0: the rest of the disk
	FS          string // ext4, vfat or ""
}

const mib = 1 << 20

// Install returns the block install:.
func (c *Config) Install() Install {
	v := c.top().Key("install")
	i := Install{
		Auto: v.Key("auto").Bool(), Device: v.Key("device").Text(),
		Source: v.Key("source").Text(), RecoverySource: v.Get("recovery-system.source").Text(),
		Reboot: v.Key("reboot").Bool(), PowerOff: v.Key("poweroff").Bool(),
		NoFormat: v.Key("no-format").Bool(), Force: v.Key("force").Bool(),
		Sizes:      map[string]int64{},
		BindMounts: paths(v.Key("bind_mounts")), EphemeralMounts: paths(v.Key("ephemeral_mounts")),
		Cmdline: v.Get("grub_options.extra_cmdline").Text(), Env: v.Key("env").StringMap(),
		SSHHardening: v.Key("ssh_hardening").Bool(),
	}
	if s := v.Get("system.source").Text(); i.Source == "" {
		i.Source = s
	}
	if c.top().Key("debug").Bool() {
		i.Cmdline = strings.TrimSpace(i.Cmdline + " " + layout.CmdlineDebug)
	}
	for _, p := range v.Key("encrypted_partitions").Strings() {
		if name := strings.ToLower(strings.TrimPrefix(p, "COS_")); !slices.Contains(i.Encrypted, name) {
			i.Encrypted = append(i.Encrypted, name)
		}
	}
	parts := v.Key("partitions")
	for _, name := range parts.Keys() {
		if size := parts.Key(name).Key("size").Int(); size > 0 {
			i.Sizes[name] = size * mib
		}
	}
	for _, p := range v.Key("extra-partitions").Items() {
		e := ExtraPartition{
			Name:  p.Key("name").Text(),
			Label: p.Key("label").Text(),
			Size:  p.Key("size").Int() * mib,
			FS:    "ext4",
		}
		switch p.Key("fs").Text() {
		case "none":
			e.FS = ""
		case "vfat", "fat32":
			e.FS = "vfat"
		}
		if e.Name != "" {
			i.Extra = append(i.Extra, e)
		}
	}
	return i
}

// Labels returns an image's labels with the words for the kernel's command line added, as far as making boot files is
// concerned.
func (i Install) Labels(labels map[string]string) map[string]string {
	if i.Cmdline == "" {
		return labels
	}
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[layout.ImageLabelCmdline] = layout.ParseCmdline(labels[layout.ImageLabelCmdline] + " " + i.Cmdline).String()
	return labels
}

func paths(v *Value) []string {
	list := v.Strings()
	for i, p := range list {
		list[i] = strings.TrimSuffix(p, "/")
	}
	return list
}

// contradictions finds what is right by itself and wrong together. The report has it, and the config is as it says:
// readers have to cope, as they do at boot.
func (c *Config) contradictions() (errs []Error) {
	fail := func(v *Value, path, suggestion, format string, args ...any) {
		errs = append(errs, Error{path, v.Pos(), fmt.Sprintf(format, args...), suggestion})
	}
	for _, block := range []string{"install", "reset", "upgrade"} {
		v := c.top().Key(block)
		if v.Key("reboot").Bool() && v.Key("poweroff").Bool() {
			fail(v.Key("poweroff"), block+".poweroff", "remove one of them", "reboot and poweroff are both set")
		}
	}
	v := c.top().Key("install")
	names := map[string]bool{
		"bios":       true,
		"efi":        true,
		"oem":        true,
		"recovery":   true,
		"state":      true,
		"persistent": true,
	}
	rest := c.Install().Sizes["persistent"] == 0
	for n, p := range v.Key("extra-partitions").Items() {
		at := fmt.Sprintf("install.extra-partitions[%d]", n)
		name := p.Key("name").Text()
		if slices.ContainsFunc(c.report.Errors, func(e Error) bool { return strings.HasPrefix(e.Path, at) }) {
			continue // it has been said what is wrong
		}
		switch {
		case name == "":
			fail(p, at, "add name:", "the partition has no name")
		case names[name]:
			fail(p.Key("name"), at+".name", "choose another name", "another partition has the name %q", name)
		}
		names[name] = true
		if p.Key("size").Int() == 0 {
			if rest {
				fail(
					p,
					at,
					"give it a size, or one to install.partitions.persistent",
					"it has no size, and another partition takes the rest of the disk",
				)
			}
			rest = true
		}
	}
	if v.Key("ssh_hardening").Bool() && !c.HasKeys() {
		fail(v.Key("ssh_hardening"), "install.ssh_hardening", "add ssh_authorized_keys to a user",
			"nobody could log in by SSH: no user has a key")
	}
	return errs
}

// HasKeys says whether anybody has a key to log in with.
func (c *Config) HasKeys() bool {
	return len(c.Keys()) > 0 || slices.ContainsFunc(c.Users(), func(u User) bool { return len(u.Keys) > 0 })
}

// Reset is the block reset:.
type Reset struct{ Auto, Reboot, PowerOff, OEM bool }

// Reset returns the block reset:.
func (c *Config) Reset() Reset {
	v := c.top().Key("reset")
	return Reset{
		Auto: v.Key("auto").Bool(), Reboot: v.Key("reboot").Bool(), PowerOff: v.Key("poweroff").Bool(),
		OEM: v.Key("reset-oem").Bool(),
	}
}

// Upgrade is the block upgrade:.
type Upgrade struct {
	// Source is the active system's image, RecoverySource that of the recovery system; "" where it is not said.
	Source, RecoverySource     string
	Reboot, PowerOff, Recovery bool
}

// Upgrade returns the block upgrade:.
func (c *Config) Upgrade() Upgrade {
	v := c.top().Key("upgrade")
	u := Upgrade{
		Source: v.Get("system.source").Text(), RecoverySource: v.Get("recovery-system.source").Text(),
		Reboot: v.Key("reboot").Bool(), PowerOff: v.Key("poweroff").Bool(), Recovery: v.Key("recovery").Bool(),
	}
	for _, s := range []*string{&u.Source, &u.RecoverySource} {
		if *s == "" {
			*s = v.Key("source").Text()
		}
	}
	return u
}
