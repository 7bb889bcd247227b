package provision

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/internal/filemode"
	"github.com/kairos-buildkit/kairos/internal/modprobe"
	"github.com/kairos-buildkit/kairos/node/provision/accounts"
	"github.com/kairos-buildkit/kairos/node/provision/tree"
)

// runStep does what a step says, in yip's order: what is written before what is run, accounts after it.
func (s *System) runStep(ctx context.Context, c *config.Config, step config.Step) {
	v := step.Value
	check := func(what string, err error) {
		if err != nil {
			s.stepProblem(step, what, err)
		}
	}
	check("dns", s.setDNS(v.Key("dns")))
	for _, d := range v.Key("downloads").Items() {
		check("downloads: "+d.Key("path").Text(), s.download(ctx, d))
	}
	for _, d := range v.Key("directories").Items() {
		check("directories: "+d.Key("path").Text(), s.makeDirectory(d))
	}
	for _, f := range v.Key("files").Items() {
		check("files: "+f.Key("path").Text(), s.stepFile(f))
	}
	env := c.Env()
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, s.Env)
	for i, line := range v.Key("commands").Strings() {
		_, err := s.shell(ctx, s.rendered(line), env)
		check(fmt.Sprintf("commands[%d]", i), err)
	}
	if name := v.Key("hostname").Text(); name != "" {
		name, err := s.templated(name)
		if err == nil {
			err = s.setHostname(name, "", true)
		}
		check("hostname", err)
	}
	settings := v.Key("sysctl").StringMap()
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		name := "/proc/sys/" + strings.ReplaceAll(path.Clean("/" + key)[1:], ".", "/")
		check("sysctl: "+key, os.WriteFile(name, []byte(settings[key]), 0o644))
	}
	s.stepUsers(step)
	for _, m := range v.Key("modules").Strings() {
		check("modules", s.loadModule(ctx, m))
	}
	if settings := v.Key("timesyncd").StringMap(); len(settings) > 0 {
		text := "[Time]\n"
		for _, key := range slices.Sorted(maps.Keys(settings)) {
			text += key + "=" + s.rendered(settings[key]) + "\n"
		}
		check("timesyncd", s.write("/etc/systemd/timesyncd.conf.d/10-yip.conf", []byte(text), 0o644))
	}
	s.stepUnits(ctx, step)
	check("environment", s.setEnvironment(v))
	if settings := v.Key("systemd_firstboot").StringMap(); len(settings) > 0 {
		var args []string
		for _, key := range slices.Sorted(maps.Keys(settings)) {
			arg := "--" + strings.ToLower(key)
			if settings[key] != "true" {
				arg += "=" + settings[key]
			}
			args = append(args, arg)
		}
		check("systemd_firstboot", s.run(ctx, "systemd-firstboot", args...))
	}
}

// shell runs a line, and returns its output. What it started ends with ctx.
func (s *System) shell(ctx context.Context, line string, env map[string]string) (string, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Env = os.Environ()
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	return output(cmd)
}

// loadModule loads a kernel module: by modprobe, which knows of /etc/modprobe.d, where the image has it.
func (s *System) loadModule(ctx context.Context, name string) error {
	if _, err := exec.LookPath("modprobe"); err != nil {
		return modprobe.Load(name)
	}
	return s.run(ctx, "modprobe", "--", name)
}

func (s *System) run(ctx context.Context, name string, args ...string) error {
	_, err := output(exec.CommandContext(ctx, name, args...))
	return err
}

// output runs a program and returns the end of what it prints, which an error has, too.
func output(cmd *exec.Cmd) (string, error) {
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	out := strings.ToValidUTF8(strings.TrimSpace(b.String()), "?")
	if len(out) > 2000 {
		out = "…" + strings.ToValidUTF8(out[len(out)-2000:], "")
	}
	if err != nil && out != "" {
		err = &outputError{err, out}
	}
	return out, err
}

// outputError is a program's error with what it printed, which may be for root's eyes alone.
type outputError struct {
	error
	output string
}

func (e *outputError) Unwrap() error { return e.error }

// attr reads permissions and the owner of a file or directory of a step.
func (s *System) attr(v *config.Value, mode uint32) (tree.Attr, error) {
	a := tree.Attr{Mode: filemode.FromUnix(mode), UID: -1, GID: -1}
	if v.Has("permissions") {
		a.Mode = filemode.FromUnix(uint32(v.Key("permissions").Int()))
	}
	if v.Has("owner") {
		a.UID = int(v.Key("owner").Int())
	}
	if v.Has("group") {
		a.GID = int(v.Key("group").Int())
	}
	if name := v.Key("ownerstring").Text(); name != "" {
		var err error
		if a.UID, a.GID, err = accounts.Owner(s.root, name); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (s *System) stepFile(v *config.Value) error {
	a, err := s.attr(v, 0o644)
	if err != nil {
		return err
	}
	data, err := config.DecodeContent(v.Key("content").Text(), v.Key("encoding").Text())
	if err != nil {
		return err
	}
	return s.root.WriteFile(v.Key("path").Text(), []byte(s.rendered(string(data))), a)
}

func (s *System) makeDirectory(v *config.Value) error {
	a, err := s.attr(v, 0o755)
	if err != nil {
		return err
	}
	d, name, err := s.root.Parent(v.Key("path").Text())
	if err != nil {
		return err
	}
	defer d.Close()
	if d.Has(name) {
		return d.SetDir(name, a)
	}
	return d.Mkdir(name, a.Mode, a.UID, a.GID)
}

// maxDownload bounds a file that a step fetches, in bytes.
const maxDownload = 1 << 30

func (s *System) download(ctx context.Context, v *config.Value) error {
	a, err := s.attr(v, 0o644)
	if err != nil {
		return err
	}
	timeout := time.Duration(v.Key("timeout").Int()) * time.Second
	if timeout <= 0 {
		timeout = 5 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	address, err := s.templated(v.Key("url").Text())
	if err != nil {
		return err
	}
	b, err := Fetch(ctx, address, maxDownload)
	if err != nil {
		return err
	}
	name := v.Key("path").Text()
	if strings.HasSuffix(name, "/") {
		name += path.Base(address)
	}
	return s.root.WriteFile(name, b, a)
}

func (s *System) setDNS(v *config.Value) error {
	servers := v.Key("nameservers").Strings()
	if len(servers) == 0 {
		return nil
	}
	var b strings.Builder
	if l := v.Key("search").Strings(); len(l) > 0 {
		b.WriteString("search " + strings.Join(l, " ") + "\n")
	}
	for _, n := range servers {
		b.WriteString("nameserver " + n + "\n")
	}
	if l := v.Key("options").Strings(); len(l) > 0 {
		b.WriteString("options " + strings.Join(l, " ") + "\n")
	}
	name := v.Key("path").Text()
	if name == "" {
		name = "/etc/resolv.conf"
	}
	return s.write(name, []byte(b.String()), 0o644)
}

// stepUsers makes the accounts of a step, and allows its keys. Keys to fetch come with those of the users.
func (s *System) stepUsers(step config.Step) {
	remote := map[string][]string{}
	users := step.Value.Key("users")
	var list []accounts.User
	for _, name := range users.Keys() {
		list = append(list, s.user(config.ParseUser(name, users.Key(name)), remote))
	}
	if len(list) > 0 {
		if err := s.accounts().Apply(list); err != nil {
			s.stepProblem(step, "", err)
		}
	}
	keys := step.Value.Key("authorized_keys")
	for _, name := range keys.Keys() {
		a, err := accounts.Lookup(s.root, name)
		if err == nil {
			err = s.accounts().Authorize(a, s.keys(name, keys.Key(name).Strings(), remote))
		}
		if err != nil {
			s.stepProblem(step, "authorized_keys: "+name, err)
		}
	}
	if err := s.noteRemote(remote); err != nil {
		s.stepProblem(step, "authorized_keys", err)
	}
}

// stepUnits has systemctl do something with units. Before the image's init runs, nothing can be started.
func (s *System) stepUnits(ctx context.Context, step config.Step) {
	v := step.Value.Key("systemctl")
	for _, o := range v.Key("overrides").Items() {
		service, name, content := o.Key("service").Text(), o.Key("name").Text(), o.Key("content").Text()
		if service == "" || content == "" {
			continue
		}
		if path.Ext(service) == "" {
			service += ".service"
		}
		if name == "" {
			name = "override-yip"
		}
		name = strings.TrimSuffix(path.Base(name), ".conf") + ".conf"
		if err := s.write("/etc/systemd/system/"+path.Base(service)+".d/"+name, []byte(content), 0o644); err != nil {
			s.stepProblem(step, "systemctl", err)
		}
	}
	for _, verb := range []string{"enable", "disable", "mask", "start"} {
		for _, unit := range v.Key(verb).Strings() {
			if err := s.run(ctx, "systemctl", verb, unit); err != nil {
				s.stepProblem(step, "systemctl "+verb+" "+unit, err)
			}
		}
	}
}

// setEnvironment writes variables into a file, beside those that it has.
func (s *System) setEnvironment(v *config.Value) error {
	set := v.Key("environment").StringMap()
	if len(set) == 0 {
		return nil
	}
	name := v.Key("environment_file").Text()
	if name == "" {
		name = "/etc/environment"
	}
	b, err := s.root.ReadFile(name, 1<<20)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		key, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if _, ok := set[key]; !ok {
			out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		value := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s.rendered(set[key]))
		out.WriteString(key + "=\"" + value + "\"\n")
	}
	return s.write(name, []byte(out.String()), 0o644)
}
