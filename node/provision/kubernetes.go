package provision

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/provision/tree"
)

// service is how a Kubernetes distribution's binary is started for a block of the config.
type service struct {
	program, command, unit, kind string
}

var services = map[string]service{
	"k3s":        {"k3s", "server", "k3s", "notify"},
	"k3s-agent":  {"k3s", "agent", "k3s-agent", "notify"},
	"k0s":        {"k0s", "controller", "k0scontroller", "simple"},
	"k0s-worker": {"k0s", "worker", "k0sworker", "simple"},
}

// applyKubernetes makes services of the blocks k3s, k3s-agent, k0s and k0s-worker, at each boot: what the config says
// now is what runs. The units are in memory.
func (s *System) applyKubernetes(c *config.Config) {
	for _, k := range c.Kubernetes() {
		if !k.Enabled {
			continue
		}
		if err := s.makeService(k); err != nil {
			s.problem(k.Pos, k.Name, "%v", err)
		}
	}
}

func (s *System) makeService(k config.Kubernetes) error {
	v := services[k.Name]
	program := ""
	for _, dir := range []string{"/usr/bin/", layout.MountPersistent + "/bin/", "/usr/sbin/", "/opt/bin/"} {
		if s.exists(dir + v.program) {
			program = dir + v.program
			break
		}
	}
	if program == "" {
		return fmt.Errorf("the image has no %s among its programs: add it in its Dockerfile", v.program)
	}
	argv := []string{program, v.command}
	for _, a := range k.Args {
		for _, word := range layout.ParseCmdline(s.rendered(a)) {
			argv = append(argv, strings.Trim(word, `"`))
		}
	}
	if k.EmbeddedRegistry {
		if !k.ReplaceArgs {
			argv = append(argv, "--embedded-registry")
		}
		const mirrors = "/etc/rancher/k3s/registries.yaml"
		if !s.exists(mirrors) {
			if err := s.write(mirrors, []byte("mirrors:\n  \"*\":\n"), 0o600); err != nil {
				return err
			}
		}
	}
	// The environment may have a token in it.
	envFile := "/" + layout.RunDir + "/" + v.unit + ".env"
	var env strings.Builder
	for _, name := range slices.Sorted(maps.Keys(k.Env)) {
		if strings.ContainsAny(name, "= \n\"'") || strings.Contains(k.Env[name], "\n") {
			return fmt.Errorf("env: %q: want a name, and a value in one line", name)
		}
		value := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(s.rendered(k.Env[name]))
		fmt.Fprintf(&env, "%s=\"%s\"\n", name, value)
	}
	if err := s.write(envFile, []byte(env.String()), 0o600); err != nil {
		return err
	}
	switch {
	case s.hasSystemd():
		return s.systemdService(v, argv, envFile, k.ReplaceEnv)
	case s.exists("/sbin/openrc-run"):
		return s.openRCService(v, argv, envFile)
	}
	return errors.New(
		"the image has neither systemd nor OpenRC to start it: start it from the image's own init script",
	)
}

func (s *System) systemdService(v service, argv []string, envFile string, replaceEnv bool) error {
	name := v.unit + ".service"
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(a) + `"`
	}
	exec := "ExecStart=" + strings.Join(words, " ") + "\n"
	envLines := "EnvironmentFile=-/etc/sysconfig/" + v.unit + "\nEnvironmentFile=-/etc/default/" + v.unit + "\n"
	if replaceEnv {
		envLines = "EnvironmentFile=\n"
	}
	envLines += "EnvironmentFile=" + envFile + "\n"
	path, text := runtimeUnits+name, `[Unit]
Description=`+v.program+" "+v.command+` of the node's cloud-config
# Without default dependencies no target, and so not the blessing, waits until it is up.
DefaultDependencies=no
Wants=network-online.target
Requires=sysinit.target
After=basic.target network-online.target
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=`+v.kind+`
`+exec+envLines+`KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
`
	for _, dir := range []string{"/etc/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/"} {
		if s.exists(dir + name) { // the image has its own way to start it
			path, text = runtimeUnits+name+".d/50-kairos.conf", "[Service]\nExecStart=\n"+exec+envLines
			break
		}
	}
	if err := s.write(path, []byte(text), 0o644); err != nil {
		return err
	}
	target := runtimeUnits + name
	if path != target {
		target = "/usr/lib/systemd/system/" + name
		if s.exists("/etc/systemd/system/" + name) {
			target = "/etc/systemd/system/" + name
		}
	}
	wants, err := s.root.MkdirAll(runtimeUnits+"multi-user.target.wants", 0o755)
	if err != nil {
		return err
	}
	defer wants.Close()
	return wants.Symlink(target, name)
}

// openRCService makes a script for OpenRC. /etc/init.d and /etc/runlevels are persistent there: the script does
// nothing at a boot whose config has left no environment for it.
func (s *System) openRCService(v service, argv []string, envFile string) error {
	words := make([]string, len(argv)-1)
	for i, a := range argv[1:] {
		words[i] = strings.ReplaceAll(quote(a), `"`, `\"`)
	}
	text := `#!/sbin/openrc-run
# Written by Kairos from the node's cloud-config at each boot.
[ ! -e ` + envFile + ` ] || { set -a; . ` + envFile + `; set +a; }
description="` + v.program + " " + v.command + `"
supervisor=supervise-daemon
command=` + argv[0] + `
command_args="` + strings.Join(words, " ") + `"
output_log=/var/log/` + v.unit + `.log
error_log=/var/log/` + v.unit + `.log

depend() {
	after network-online
	want cgroups
}

start_pre() {
	[ -e ` + envFile + ` ]
}
`
	err := s.root.WriteFile("/etc/init.d/"+v.unit, []byte(text), tree.Attr{Mode: 0o755, UID: -1, GID: -1})
	if err != nil {
		return err
	}
	level, err := s.root.MkdirAll("/etc/runlevels/default", 0o755)
	if err != nil {
		return err
	}
	defer level.Close()
	return level.Symlink("/etc/init.d/"+v.unit, v.unit)
}
