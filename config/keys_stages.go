package config

import (
	"fmt"
	"slices"
	"strings"
)

// hooks are the stages around the commands of a node, in the Kairos project's names. Those for trusted boot are there
// for all nodes: here each one boots a UKI, or the same files under BIOS.
var hooks = []struct {
	command       string
	before, after []string
}{
	{
		"install", []string{"kairos-install.pre", "kairos-uki-install.pre", "before-install"},
		[]string{"after-install", "kairos-install.after", "kairos-uki-install.after"},
	},
	{
		"upgrade", []string{"kairos-uki-upgrade.pre", "before-upgrade"},
		[]string{"after-upgrade", "kairos-uki-upgrade.after"},
	},
	{"reset", []string{"kairos-uki-reset.pre", "before-reset"}, []string{"after-reset", "kairos-uki-reset.after"}},
}

// Hooks returns the stages around a command, install, upgrade or reset, in the order in which they run.
func Hooks(command string) (before, after []string) {
	for _, h := range hooks {
		if h.command == command {
			return slices.Clone(h.before), slices.Clone(h.after)
		}
	}
	return nil, nil
}

// IsHook says whether a stage belongs to a command, and not to the start of the system.
func IsHook(stage string) bool {
	names := []string{stage, strings.TrimSuffix(stage, ".before"), strings.TrimSuffix(stage, ".after")}
	for _, h := range hooks {
		for _, name := range names {
			if slices.Contains(h.before, name) || slices.Contains(h.after, name) {
				return true
			}
		}
	}
	return false
}

// stageNames lists the stages of the system and the hooks of its commands, in the order in which they come in a node's
// life.
func stageNames() []string {
	var names []string
	for i, h := range hooks {
		names = append(append(names, h.before...), h.after...)
		if i > 0 {
			continue
		}
		for _, s := range []string{"rootfs", "initramfs", "fs", "boot", "network", "reconcile"} {
			names = append(names, s+".before", s, s+".after")
		}
	}
	return names
}

// stagesKey is the block of yip (github.com/mudler/yip), which the Kairos project runs stages with.
func stagesKey() *Key {
	return mapping(
		"stages",
		"What runs in the course of a node's life. The stages are "+strings.Join(
			stageNames(),
			", ",
		)+"; others run by `kairos-apply run-stage`.",
		list("", "", &Key{Type: tObject, Keys: stepKeys()}),
	).named(checkStage).
		differs("what comes before a command runs before the disk is changed at all, " +
			"and around an upgrade only where one is to be made")
}

func checkStage(name string) (string, string) {
	names := stageNames()
	switch {
	case strings.HasSuffix(name, "-chroot"):
		return "the root of a release is read-only: no stage runs within it", "do it in the image's Dockerfile"
	case strings.HasPrefix(name, "provider-kairos."):
		return "there is no provider", "use the stage boot.after"
	case slices.Contains(names, name):
		return "", ""
	}
	// A stage of one's own is right. A slip of the finger is not.
	if s := similar(name, names, ""); s != "" && !strings.Contains(name, ".") {
		return "no stage has this name", s
	}
	return "", ""
}

func stepKeys() []*Key {
	return []*Key{
		key("name", tString, "What the step is for; messages show it."),
		texts("commands", "Lines for the shell.").joined().secret(),
		list("files", "Files to write.", &Key{Type: tObject, Keys: concat(
			ownedFile("The file's permissions."),
			[]*Key{
				key("content", tString, "What.").secret(),
				key("encoding", tString, "How content is written.").oneOf(append([]string{""}, encodings...)...),
			},
		)}),
		list("directories", "Folders to make.", &Key{Type: tObject, Keys: ownedFile("The folder's permissions.")}),
		list("downloads", "Files to fetch.", &Key{Type: tObject, Keys: concat(ownedFile("The file's permissions."),
			[]*Key{key("url", tString, "From where.").secret(), key("timeout", tInt, "Seconds.")})}),
		key("if", tString, "A line for the shell: the step runs where it succeeds.").secret(),
		key("only_os", tString, "A regular expression: the step runs where the distribution's name matches."),
		key(
			"only_os_version",
			tString,
			"A regular expression: the step runs where the distribution's version matches.",
		),
		key("only_arch", tString, "The step runs on this architecture."),
		key("only_service_manager", tString, "The step runs under this service manager.").oneOf("systemd", "openrc"),
		mapping(
			"if_files",
			"The step runs where any, all or none of the files are there.",
			texts("", ""),
		).named(oneOfNames("any", "all", "none")),
		key("node", tString, "A regular expression: the step runs on nodes whose name matches."),
		list(
			"after",
			"Steps of the same stage that come first.",
			object("", "", key("name", tString, "The step's name.")),
		),
		key("hostname", tString, "The node's name. "+template).checked(checkHostname),
		mapping(
			"users",
			"Accounts, by their names.",
			&Key{Type: tObject, Keys: userKeys()},
		).named(func(name string) (string, string) {
			return checkUserName(newText(name))
		}),
		mapping(
			"authorized_keys",
			"Public keys, by the account's name; github:NAME and gitlab:NAME are fetched.",
			texts("", ""),
		),
		object("dns", "The resolver.",
			texts("nameservers", "Addresses."), texts("search", "Domains."), texts("options", "Options."),
			key("path", tString, "The file; /etc/resolv.conf where it is not said.").checked(absolute)),
		mapping("sysctl", "Settings of the kernel.", &Key{}),
		texts("modules", "Modules of the kernel to load."),
		object(
			"systemctl",
			"Units of systemd.",
			texts(
				"enable",
				"Units to enable.",
			),
			texts("disable", "Units to disable."),
			texts("start", "Units to start."),
			texts("mask", "Units to mask."),
			list(
				"overrides",
				"Drop-ins.",
				object("", "", key("service", tString, "The unit."), key("content", tString, "What.").secret(),
					key("name", tString, "The drop-in's name.")),
			),
		),
		mapping("environment", "Variables to write into environment_file.", &Key{}).secret(),
		key("environment_file", tString, "The file; /etc/environment where it is not said.").checked(absolute),
		mapping("systemd_firstboot", "Settings for systemd-firstboot.", &Key{}),
		mapping("timesyncd", "Settings of systemd-timesyncd.", &Key{}),
		refused("ensure_entities", "name the account under users: instead"),
		refused("delete_entities", "remove the account in the image's Dockerfile"),
		refused("layout", "the persistent partition grows by itself: for others use install.partitions and "+
			"install.extra-partitions, or commands:"),
		refused("datasource", "a disk without a config asks attached volumes and its cloud by itself: for more "+
			"install cloud-init in the image's Dockerfile"),
		refused("git", "use commands: with `git clone`, or COPY in the image's Dockerfile").secret(),
		refused("unpack_images", "use COPY --from in the image's Dockerfile, or commands:"),
		refused("packages", "the root of a release is read-only: install packages in the image's Dockerfile"),
		refused("package_pins", "the root of a release is read-only: install packages in the image's Dockerfile"),
	}
}

func ownedFile(permissions string) []*Key {
	return []*Key{
		key("path", tString, "Where.").checked(absolute),
		key("permissions", tMode, permissions).differs("644 is 0644, in quotes or not"),
		key("owner", tInt, "The number of the owner."),
		key("group", tInt, "The number of the group."),
		key("ownerstring", tString, "USER or USER:GROUP.").also("owner_string"),
	}
}

func oneOfNames(names ...string) func(string) (string, string) {
	return func(name string) (string, string) {
		if slices.Contains(names, name) {
			return "", ""
		}
		return fmt.Sprintf("%q is no key of it", name), similar(name, names, "want "+orList(names))
	}
}
