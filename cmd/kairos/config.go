package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/internal/bounded"
)

func newConfigCommand(s streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Check a cloud-config, or print the schema",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newConfigCheckCommand(s), &cobra.Command{
		Use:   "schema",
		Short: "Print the schema of cloud-configs, as JSON Schema",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := s.out.Write(config.JSONSchema())
			return err
		},
	})
	return c
}

func newConfigCheckCommand(s streams) *cobra.Command {
	var output string
	var cloudInit bool
	c := &cobra.Command{
		Use:   "check FILE|-",
		Short: "Say of each key whether it is applied, ignored or wrong",
		Long: `Say of each key of a cloud-config whether it is applied, ignored, or wrong, with its line
and what to do.

Exit codes:
  0  every key is applied
  1  the file cannot be read
  2  something is wrong
  3  something is ignored, and nothing is wrong`,
		Example: `  kairos config check config.yaml
  kairos config check -o json - < config.yaml`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("kairos config check needs one argument: the file, or - for standard input")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usagef("-o %s: want text or json", output)
			}
			b, err := readConfig(args[0], s.in)
			if err != nil {
				return err
			}
			return printReport(s.out, config.Merge(config.Parse(args[0], b)).Report(), output, cloudInit)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "what to print: text or json")
	c.Flags().BoolVar(&cloudInit, "cloud-init", false, "the config is for an image with cloud-init")
	return c
}

func printReport(w io.Writer, r config.Report, output string, cloudInit bool) error {
	if cloudInit {
		r = r.WithCloudInit()
	}
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return err
		}
	} else if _, err := io.WriteString(w, r.Text()); err != nil {
		return err
	}
	if code := r.ExitCode(); code != 0 {
		return reportedError(code)
	}
	return nil
}

// reportedError ends the program with a code of which the output says why.
type reportedError int

func (e reportedError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// readConfig reads a cloud-config's file, or standard input.
func readConfig(name string, in io.Reader) ([]byte, error) {
	if name == "-" {
		return bounded.ReadAll(in, config.MaxSize)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := bounded.ReadAll(f, config.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

// configForMedium reads a cloud-config that goes onto a medium. One with an error does not.
func configForMedium(name string) (string, error) {
	b, err := readConfig(name, nil)
	if err != nil {
		return "", fmt.Errorf("cloud-config: %w", err)
	}
	if err := config.Merge(config.Parse(name, b)).Report().Err(); err != nil {
		return "", err
	}
	return string(b), nil
}
