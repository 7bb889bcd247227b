package config

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/filemode"
)

// Hostname is the node's name, which may be a template; "" where it is not said.
func (c *Config) Hostname() string {
	if name := c.top().Key("hostname").Text(); name != "" {
		return name
	}
	name, _, _ := strings.Cut(c.FQDN(), ".")
	if strings.Contains(name, "{{") {
		return c.FQDN() // the first dot may be the template's
	}
	return name
}

// FQDN is the node's full name, which may be a template.
func (c *Config) FQDN() string { return c.top().Key("fqdn").Text() }

// ManageHosts says whether /etc/hosts gets a line for the node's name.
func (c *Config) ManageHosts() bool {
	t := c.top().Key("manage_etc_hosts").Text()
	return t != "" && t != "false"
}

// Timezone and Locale are "" where they are not said.
func (c *Config) Timezone() string { return c.top().Key("timezone").Text() }
func (c *Config) Locale() string   { return c.top().Key("locale").Text() }

// NTP are time servers.
type NTP struct {
	Set            bool // the block is there
	Enabled        bool
	Servers, Pools []string
}

// NTP returns the block ntp:.
func (c *Config) NTP() NTP {
	v := c.top().Key("ntp")
	return NTP{
		v.IsMap(),
		v.IsMap() && (!v.Has("enabled") || v.Key("enabled").Bool()),
		v.Key("servers").Strings(),
		v.Key("pools").Strings(),
	}
}

// Strict says whether a stage that fails makes a release on trial unhealthy.
func (c *Config) Strict() bool { return c.top().Key("strict").Bool() }

// CloudInitPaths are further folders with config files.
func (c *Config) CloudInitPaths() []string { return c.top().Key("cloud-init-paths").Strings() }

// Logs are what an archive of logs has beside what it always has: units, and patterns of files.
type Logs struct{ Journal, Files []string }

// Logs returns the block logs:.
func (c *Config) Logs() Logs {
	v := c.top().Key("logs")
	return Logs{v.Key("journal").Strings(), v.Key("files").Strings()}
}

// Env are variables of stages.
func (c *Config) Env() map[string]string { return c.top().Key("env").StringMap() }

// Kubernetes is one of the blocks k3s, k3s-agent, k0s and k0s-worker.
type Kubernetes struct {
	Name                    string // the block's
	Pos                     Pos
	Enabled                 bool
	Args                    []string
	Env                     map[string]string
	ReplaceArgs, ReplaceEnv bool
	EmbeddedRegistry        bool
}

// Kubernetes returns the blocks that are there.
func (c *Config) Kubernetes() []Kubernetes {
	var all []Kubernetes
	for _, name := range []string{"k3s", "k3s-agent", "k0s", "k0s-worker"} {
		v := c.top().Key(name)
		if !v.IsMap() {
			continue
		}
		all = append(all, Kubernetes{
			Name: name, Pos: v.Pos(), Enabled: v.Key("enabled").Bool(), Args: v.Key("args").Strings(),
			Env:         v.Key("env").StringMap(),
			ReplaceArgs: v.Key("replace_args").Bool(), ReplaceEnv: v.Key("replace_env").Bool(),
			EmbeddedRegistry: v.Key("embedded_registry").Bool(),
		})
	}
	return all
}

// WriteFile is an item of write_files.
type WriteFile struct {
	Pos     Pos
	Path    string
	Content []byte // decoded
	Owner   string // USER or USER:GROUP; ""
	Mode    uint32 // permissions with setuid, setgid and sticky bits as chmod(2) has them
	Append  bool
	// Err is why the content cannot be decoded.
	Err error
}

// WriteFiles returns write_files:, as far as it has paths.
func (c *Config) WriteFiles() []WriteFile {
	var files []WriteFile
	for _, v := range c.top().Key("write_files").Items() {
		if v.Key("path").Text() == "" {
			continue
		}
		f := WriteFile{
			Pos:    v.Pos(),
			Path:   v.Key("path").Text(),
			Owner:  v.Key("owner").Text(),
			Mode:   0o644,
			Append: v.Key("append").Bool(),
		}
		if v.Has("permissions") {
			f.Mode = uint32(v.Key("permissions").Int())
		}
		f.Content, f.Err = DecodeContent(v.Key("content").Text(), v.Key("encoding").Text())
		files = append(files, f)
	}
	return files
}

// FileMode returns the mode as package io/fs has it.
func (f WriteFile) FileMode() fs.FileMode { return filemode.FromUnix(f.Mode) }

// maxContent is the most bytes that a compressed file may have.
const maxContent = 64 << 20

// DecodeContent returns the bytes of a file: encoding is b64, gzip, gz+b64 and the like, or "".
func DecodeContent(text, encoding string) ([]byte, error) {
	b := []byte(text)
	if strings.Contains(encoding, "b64") || strings.Contains(encoding, "base64") {
		var err error
		if b, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err != nil {
			return nil, fmt.Errorf("decode base64: %w", err)
		}
	}
	if !strings.HasPrefix(encoding, "gz") {
		return b, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("unpack content: %w", err)
	}
	out, err := io.ReadAll(io.LimitReader(z, maxContent+1))
	if err != nil {
		return nil, fmt.Errorf("unpack content: %w", err)
	}
	if len(out) > maxContent {
		return nil, fmt.Errorf("unpack content: more than %d bytes", maxContent)
	}
	return out, nil
}

// Command is an item of runcmd: a line for the shell, or a program with its arguments.
type Command struct {
	Pos  Pos
	Line string
	Argv []string
}

// RunCmd returns runcmd:.
func (c *Config) RunCmd() []Command {
	var all []Command
	for _, v := range c.top().Key("runcmd").Items() {
		cmd := Command{Pos: v.Pos(), Line: v.Text()}
		if v.IsList() {
			if cmd.Argv = v.Strings(); len(cmd.Argv) == 0 {
				continue
			}
		}
		all = append(all, cmd)
	}
	return all
}

// Shell returns the command as a line for the shell.
func (c Command) Shell() string {
	if c.Argv == nil {
		return c.Line
	}
	words := make([]string, len(c.Argv))
	for i, w := range c.Argv {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'"'"'`) + "'"
	}
	return strings.Join(words, " ")
}

// Step is one step of a stage.
type Step struct {
	Pos   Pos
	Stage string
	Index int    // in its stage
	Name  string // ""
	// Value is the step. Its YAML decodes into yip's schema.Stage.
	Value *Value
}

// Steps returns the steps of a stage, in the order in which they run.
func (c *Config) Steps(stage string) []Step {
	var steps []Step
	for i, v := range c.top().Key("stages").Key(stage).Items() {
		steps = append(steps, Step{v.Pos(), stage, i, v.Key("name").Text(), v})
	}
	return steps
}

// Stages returns the names of the stages that the config has.
func (c *Config) Stages() []string { return c.top().Key("stages").Keys() }
