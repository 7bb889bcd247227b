package main

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/layout"
)

// agentCommands are commands of the Kairos project's agent that have other names here; longer ones come first.
var agentCommands = []struct{ theirs, ours string }{
	{"state get", "status get"}, {"state", "status"}, {"uuid", "status get uuid"},
	{"validate", "config check"}, {"print-schema", "config schema"}, {"version", "--version"},
	{"interactive-install", "install"}, {"manual-install", "install --yes"}, {"rs", "run-stage"},
}

// agentLacks are those that there are none of, with what to use; longer ones come first.
var agentLacks = []struct{ theirs, instead string }{
	{"upgrade list-releases", "ask the registry for the image's tags"},
	{"state apply", "write the cloud-config into /oem, and restart the node"},
	{"webui", "use `kairos-apply install`"},
	{"recovery", "use `kairos-apply boot recovery`, and `kairos-apply reset` there"},
	{"register", "give the medium a cloud-config with `install: {auto: true}`"},
	{"start", "units of the image do what the agent's service does there; for Kubernetes write the block k3s or k0s"},
	{"rotate", "there is no peer-to-peer network"},
	{"get-kubeconfig", "read /etc/rancher/k3s/k3s.yaml"},
	{"sysext", "add what it brings in the image's Dockerfile"},
	{"confext", "use write_files in the cloud-config"},
	{"install-bundle", "install what it brings in the image's Dockerfile"},
	{"pull-image", "use `ctr images pull`, or name the image to `kairos-apply upgrade`"},
	{"render-template", "templates are rendered where the config is applied: use `kairos-apply run-stage`"},
	{"grubedit", "write install.grub_options.extra_cmdline into the cloud-config"},
	{"kcrypt", "partitions are not encrypted"},
	{"phone-home", "ask the node with `kairos-apply status -o json`"},
	{"versioneer", "the image's label io.kairos.version is its version"},
	{"notify", "use a systemd unit, or stages: in the cloud-config"},
	{"list-releases", "ask the registry for the image's tags"},
}

// agentShort are the agent's short names of commands, and of what comes after one.
var agentShort = map[string]string{
	"c": "config", "i": "install", "m": "manual-install", "r": "recovery", "s": "start", "u": "uuid", "w": "webui",
	"config g": "get", "state g": "get", "state a": "apply",
}

// agentFlags are flags of the Kairos project's agent: what is given here in their place. A value stays one; "" is for
// a flag that goes, since what it asks for is done in any case.
var agentFlags = map[string]map[string]string{
	"":            {"--debug": "", "--strict-validation": ""},
	"upgrade":     {"--force": "", "-f": ""},
	"reset":       {"--reset-oem": "--oem", "--unattended": "--yes"},
	"run-stage":   {"--strict": "", "-a": "--analyze"},
	"logs":        {"-o": "--file", "--output": "--file"},
	"--version":   {"--long": "", "-l": ""},
	"config show": {},
}

// agentLacksFlags are flags that there are none of, some of them of one command alone.
var agentLacksFlags = map[string]string{
	"--boot-entry":                "an upgrade makes an entry of its own",
	"--exclude-path":              "a release is the whole image: leave the path out in its Dockerfile",
	"--allow-insecure-registries": "use containerd's hosts.toml for the registry",
	"--cloud-init-paths":          "write cloud-init-paths into the cloud-config",
	"--override-cloud-init-paths": "write cloud-init-paths into the cloud-config",
	"--use-default-dirs":          "merge the files into the one that --config names",
	"print-schema --version":      "the schema is that of this program: see `kairos-apply --version`",
	"interactive-install --shell": "use another terminal of the live medium",
}

// arguments returns the arguments of a command line; one of kairos-agent is put into this program's words.
func arguments(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	if len(argv) < 2 || path.Base(argv[0]) != path.Base(layout.ImageAgent) {
		return argv[1:]
	}
	args := longNames(replaceFlags(argv[1:], agentFlags[""]))
	begins := func(theirs string) bool {
		words := strings.Fields(theirs)
		return len(args) >= len(words) && slices.Equal(args[:len(words)], words)
	}
	for _, c := range agentLacks {
		if begins(c.theirs) {
			return []string{lacks, c.theirs, c.instead}
		}
	}
	command := ""
	if len(args) > 0 {
		command, args = args[0], slices.Clone(args)
	}
	for _, a := range args {
		name, _, _ := strings.Cut(a, "=")
		for _, flag := range []string{name, command + " " + name} {
			if why, ok := agentLacksFlags[flag]; ok {
				return []string{lacks, command + " " + name, why}
			}
		}
	}
	for _, c := range agentCommands {
		if !begins(c.theirs) {
			continue
		}
		args = append(strings.Fields(c.ours), args[len(strings.Fields(c.theirs)):]...)
		break
	}
	if len(args) > 0 {
		args = append(args[:1:1], replaceFlags(args[1:], agentFlags[args[0]])...)
	}
	switch {
	case slices.Equal(args, []string{"status", "get"}):
		return []string{"status", "-o", "json"}
	case command == "bootentry":
		return bootEntry(args[1:])
	case command == "upgrade":
		return valueToArgument(args, "--source", "--image")
	case command == "manual-install":
		return argumentToFlag(args, "--config", "--device", "--source")
	}
	return args
}

// longNames puts the long names of commands in the place of short ones.
func longNames(args []string) []string {
	args = slices.Clone(args)
	before := ""
	for i := range args[:min(2, len(args))] {
		if long, ok := agentShort[strings.TrimSpace(before+" "+args[i])]; ok {
			args[i] = long
		}
		before = args[i]
	}
	return args
}

// replaceFlags puts other flags in the place of those that are there; "" is none.
func replaceFlags(args []string, with map[string]string) []string {
	var out []string
	for _, a := range args {
		name, value, hasValue := strings.Cut(a, "=")
		now, ok := with[name]
		switch {
		case !ok || !strings.HasPrefix(a, "-"):
			out = append(out, a)
		case now != "" && hasValue:
			out = append(out, now+"="+value)
		case now != "":
			out = append(out, now)
		}
	}
	return out
}

// valueToArgument has the value of a flag be an argument.
func valueToArgument(args []string, flags ...string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		name, value, ok := strings.Cut(args[i], "=")
		switch {
		case ok && slices.Contains(flags, name):
			out = append(out, value)
		case slices.Contains(flags, name) && i+1 < len(args):
			i++
			out = append(out, args[i])
		default:
			out = append(out, args[i])
		}
	}
	return out
}

// argumentToFlag has the argument be a flag's value; taking are flags that are followed by a value.
func argumentToFlag(args []string, flag string, taking ...string) []string {
	out := args[:1:1]
	for i := 1; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") && !slices.Contains(taking, args[i-1]) {
			out = append(out, flag)
		}
		out = append(out, args[i])
	}
	return out
}

// bootEntry puts the arguments of `kairos-agent bootentry` into this program's words.
func bootEntry(args []string) []string {
	out := valueToArgument(append([]string{"boot"}, args...), "--select", "-s")
	for i, a := range out {
		if ours, ok := agentEntries[a]; ok {
			out[i] = ours
		}
	}
	return out
}

// agentEntries are the boot entries that have other names here.
var agentEntries = map[string]string{
	"cos": "active", "fallback": "passive", "statereset": "reset", "autoreset": "reset",
}

// lacks is the command that says what kairos-agent does not have here.
const lacks = "kairos-agent-lacks"

func (a *app) agentLacks() *cobra.Command {
	return &cobra.Command{
		Use:    lacks + " COMMAND INSTEAD",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			return &usageError{fmt.Errorf("kairos-agent %s is not here: %s", args[0], args[1])}
		},
	}
}
