// Package provision has a cloud-config take effect on a node: accounts, names, files, commands, stages.
//
// It runs as root, in the new root, before the image's init does. Each file and each key stands for itself: what is
// right takes effect, and the rest is a problem that status and the login prompt show. The last config that took
// effect in full is kept, and while another one has mistakes, its users and keys apply, too: no config locks its
// author out.
package provision

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/provision/accounts"
	"github.com/kairos-buildkit/kairos/node/provision/tree"
)

// System is the system to change.
type System struct {
	root *tree.Root
	boot layout.Boot
	// Passive says that the release which runs is not the one that boots next.
	Passive bool
	// Env are further variables of stages, over those of the config.
	Env map[string]string
	// Persistent, in a recovery system, are the files of PERSISTENT, which is not mounted there; nil where it has
	// none.
	Persistent fs.FS
	// Volume says that a volume with data for cloud-init is attached.
	Volume bool
	// Metadata says that the cloud's metadata service is to be asked when the network is up.
	Metadata bool

	remote bool // there are more keys to fetch
	// Hashes of passwords by the users' names: those of this config, and of the one that was kept.
	hashes, kept map[string]string
	problems     []layout.Problem
	vars         map[string]any // of templates; nil: not read yet
}

// Open returns the system below a root: "/", or another directory, where no program of it runs.
func Open(root string, boot layout.Boot) (*System, error) {
	r, err := tree.Open(root)
	if err != nil {
		return nil, err
	}
	return &System{root: r, boot: boot}, nil
}

// Close closes the system.
func (s *System) Close() error { return s.root.Close() }

// running says that the system is this process's own.
func (s *System) running() bool { return s.root.Name() == "/" }

// keeps says that there is PERSISTENT.
func (s *System) keeps() bool { return s.boot.Role == layout.RoleSystem }

// Apply has all take effect that is done before the image's init starts. What did not is in the problems, which are
// written where status finds them. The error is that they could not be.
func (s *System) Apply(ctx context.Context, c *config.Config) ([]layout.Problem, error) {
	s.hashes = nil // read from what is kept by now
	s.report(c)
	if s.boot.Role != layout.RoleLive {
		s.check("", s.keepIdentity())
	} else if !c.Empty() {
		s.check("", s.liveIdentity())
	}
	s.check("", s.sentinel())
	last := s.lastConfig(c)
	s.applyNames(c)
	s.applyUsers(c, last)
	s.applyFiles(c)
	s.applySSH(c, last)
	s.applyTime(c)
	s.applyKubernetes(c)
	s.applyRunCmd(c)
	s.check("", s.seedCloudInit(c))
	for _, stage := range []string{"rootfs", "initramfs", "fs"} {
		s.runStage(ctx, c, stage)
	}
	s.check("", s.announce(c))
	if len(s.problems) == 0 {
		s.check("", s.keepConfig(c))
	}
	return s.problems, s.writeProblems(false)
}

// report takes over what is wrong with the config itself, and what of it does nothing in this image.
func (s *System) report(c *config.Config) {
	r := c.Report()
	for _, e := range r.Errors {
		message := e.Message
		if e.Suggestion != "" {
			message += ": " + e.Suggestion
		}
		s.problem(e.Pos, e.Path, "%s", message)
	}
}

// problem notes what did not take effect.
func (s *System) problem(at config.Pos, path, format string, args ...any) {
	where := at
	where.File = filepath.Base(at.File)
	if at.File == "" {
		where.File = ""
	}
	s.problems = append(
		s.problems,
		layout.Problem{Where: where.String(), Path: path, Message: fmt.Sprintf(format, args...)},
	)
}

// check notes an error, if there is one.
func (s *System) check(path string, err error) {
	if err != nil {
		s.problem(config.Pos{}, path, "%v", err)
	}
}

// writeProblems leaves the problems for status: as all there are, or beside those that are there.
func (s *System) writeProblems(add bool) error {
	all := s.problems
	if add {
		b, err := s.root.ReadFile(layout.RunProblems, 1<<20)
		if err == nil {
			before, err := layout.ParseProblems(b)
			if err != nil {
				return err
			}
			all = append(before, all...)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := s.write(layout.RunProblems, layout.MarshalProblems(all), 0o600); err != nil {
		return fmt.Errorf("note the cloud-config's problems: %w", err)
	}
	return nil
}

// write writes a file of root's.
func (s *System) write(name string, data []byte, mode fs.FileMode) error {
	return s.root.WriteFile(name, data, tree.Attr{Mode: mode, UID: -1, GID: -1})
}

func (s *System) exists(name string) bool {
	d, base, err := s.lookup(name)
	if err != nil {
		return false
	}
	defer d.Close()
	return d.Has(base)
}

// lookup opens the directory that a file is in, and makes none.
func (s *System) lookup(name string) (*tree.Dir, string, error) {
	d, err := s.root.Dir(filepath.Dir("/" + name))
	return d, filepath.Base(name), err
}

// accounts is the system as package accounts sees it.
func (s *System) accounts() accounts.System {
	a := accounts.System{Root: s.root, Keep: s.keeps(), Sudoers: accounts.StrictSudoers{}}
	if s.running() {
		for _, program := range []string{"/usr/sbin/visudo", "/usr/bin/visudo", "/sbin/visudo"} {
			if s.exists(program) {
				a.Sudoers = accounts.Visudo{Program: program, Dir: "/" + layout.RunDir}
				break
			}
		}
	}
	return a
}

// lastConfig reads the last config that took effect in full, where this one has mistakes.
func (s *System) lastConfig(c *config.Config) *config.Config {
	if len(c.Report().Errors) == 0 {
		return nil
	}
	return s.keptConfig()
}

// keptConfig is the config that was kept, nil where there is none.
func (s *System) keptConfig() *config.Config {
	if !s.keeps() {
		return nil
	}
	b, err := s.root.ReadFile(layout.KeptConfig, config.MaxSize)
	if err != nil {
		return nil
	}
	return config.Merge(config.Parse(filepath.Base(layout.KeptConfig), b))
}

// keepConfig keeps a config that took effect in full: its secrets are in the files that it comes from, and not here.
func (s *System) keepConfig(c *config.Config) error {
	if !s.keeps() || c.Empty() {
		return nil
	}
	b, err := c.Kept(s.hashes).YAML()
	if err != nil {
		return err
	}
	if old, err := s.root.ReadFile(layout.KeptConfig, config.MaxSize); err == nil && string(old) == string(b) {
		return nil
	}
	if err := s.write(layout.KeptConfig, b, 0o600); err != nil {
		return fmt.Errorf("keep the config: %w", err)
	}
	return nil
}

// sentinel leaves what was booted where the Kairos project's stages look.
func (s *System) sentinel() error {
	name := "active"
	switch {
	case s.boot.Role == layout.RoleLive:
		name = "live"
	case s.boot.Role == layout.RoleRecovery:
		name = "recovery"
	case s.Passive:
		name = "passive"
	}
	if err := s.write(layout.RunSentinels+"/"+name+"_mode", nil, 0o644); err != nil {
		return fmt.Errorf("say what was booted: %w", err)
	}
	return nil
}
