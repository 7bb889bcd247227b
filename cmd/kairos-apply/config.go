package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node"
)

func (a *app) config() *cobra.Command {
	var boot bool
	c := &cobra.Command{
		Use:   "config",
		Short: "Show or check the node's cloud-config, or apply it as part of the start",
		Args:  cobra.NoArgs,
		Long: `Show the cloud-config of this node, or of a live medium: all files, merged, and of them what is right.

--boot applies it; that is part of the start, before any service runs.

` + exitCodes,
		RunE: func(*cobra.Command, []string) error {
			if !boot {
				return a.showConfig()
			}
			if os.Geteuid() != 0 {
				return errNotRoot
			}
			const done = "/" + layout.RunDir + "/configured"
			if _, err := os.Stat(done); err == nil {
				return nil
			}
			// What went wrong is in status, and does not come right by another try.
			return errors.Join(node.ApplyConfig("/"), os.WriteFile(done, nil, 0o644))
		},
	}
	c.Flags().BoolVar(&boot, "boot", false, "apply it, once for each boot")
	c.AddCommand(a.configCheck(), a.configShow(), a.configGet(), a.configSchema())
	return c
}

func (a *app) configCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE|URL|-]",
		Short: "Say of each key whether it is applied, ignored or wrong",
		Long: `Say of each key of a cloud-config whether it is applied, ignored, or wrong, with its line
and what to do. Without an argument it is this node's.

Exit codes:
  0  every key is applied
  1  the config cannot be read
  2  something is wrong
  3  something is ignored, and nothing is wrong`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			conf, err := a.configToCheck(c.Context(), args)
			if err != nil {
				return err
			}
			r := conf.Report()
			if node.HasCloudInit("/") {
				r = r.WithCloudInit()
			}
			if a.json {
				err = a.printJSON(r)
			} else {
				_, err = io.WriteString(a.out, r.Text())
			}
			if code := r.ExitCode(); err == nil && code != 0 {
				return &childExit{code}
			}
			return err
		},
	}
}

func (a *app) configToCheck(ctx context.Context, args []string) (*config.Config, error) {
	if len(args) == 0 {
		return nodeConfig()
	}
	name := args[0]
	var b []byte
	var err error
	switch {
	case name == "-":
		name = "standard input"
		b, err = bounded.ReadAll(a.in, config.MaxSize)
	case strings.Contains(name, "://"):
		b, err = node.GetConfig(ctx, name)
	default:
		b, err = readBounded(name)
	}
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", name, err)
	}
	return config.Merge(config.Parse(name, b)), nil
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return bounded.ReadAll(f, config.MaxSize)
}

// nodeConfig is this node's config, which root alone reads.
func nodeConfig() (*config.Config, error) {
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	b, err := node.ReadBoot("/")
	if err != nil {
		return nil, err
	}
	return node.NodeConfig("/", b), nil
}

func (a *app) showConfig() error {
	conf, err := nodeConfig()
	if err != nil {
		return err
	}
	return a.printValue(conf.Value())
}

func (a *app) configShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show all files of the node's cloud-config, merged",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return a.showConfig() },
	}
}

func (a *app) configGet() *cobra.Command {
	return &cobra.Command{
		Use:   "get KEY",
		Short: "Show one value of the node's cloud-config",
		Long: `Show the value of a key of the node's cloud-config, such as install.device or
stages.boot[0].commands. It fails where the config does not have the key.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			conf, err := nodeConfig()
			if err != nil {
				return err
			}
			v := conf.Get(args[0])
			if v == nil {
				return fmt.Errorf(
					"config get %s: the config does not have it: `kairos-apply config show` shows all of it",
					args[0],
				)
			}
			if v.IsScalar() && !a.json {
				_, err := fmt.Fprintln(a.out, v.Text())
				return err
			}
			return a.printValue(v)
		},
	}
}

// printValue prints YAML, or JSON where that was asked for.
func (a *app) printValue(v *config.Value) error {
	if a.json {
		return a.printJSON(v.Any())
	}
	b, err := v.YAML()
	if err != nil {
		return err
	}
	_, err = a.out.Write(b)
	return err
}

func (a *app) configSchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the schema of cloud-configs, as JSON Schema",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(config.JSONSchema())
			return err
		},
	}
}
