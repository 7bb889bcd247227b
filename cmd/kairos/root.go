package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/moby/buildkit/version"
)

func newRootCommand(s streams) *cobra.Command {
	var debugLog bool
	root := &cobra.Command{
		Use:   "kairos",
		Short: "From a Dockerfile to a system that boots",
		Long: `Kairos builds a container image that also boots, and puts it on bootable media.

The Dockerfile begins with "# syntax=kairos" and installs a kernel and an init. Nothing else
is needed: no Docker, no daemon.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) {
			// BuildKit's parts log for a daemon's operator. What a person needs is in the
			// progress display and in the error.
			logrus.SetOutput(io.Discard)
			if debugLog {
				logrus.SetOutput(s.err)
				logrus.SetLevel(logrus.DebugLevel)
			}
			version.Version, version.Package = buildkitVersion()
		},
	}
	root.PersistentFlags().BoolVar(&debugLog, "debug", false, "log what the builder does")
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w\nSee `%s --help`", err, c.CommandPath())
	})
	root.AddCommand(
		newBuildCommand(s),
		newExportCommand(s),
		newInspectCommand(s),
		newDiffCommand(s),
		newReleaseCommand(s),
		newKeysCommand(s),
		newSignCommand(s),
		newVerifyCommand(s),
		newRunCommand(s),
		newFleetCommand(),
		newBuilderCommand(s),
		newConfigCommand(s),
		newVersionCommand(s),
	)
	return root
}

// programVersion is set by the linker in releases.
var programVersion = ""

func newVersionCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			bk, _ := buildkitVersion()
			_, err := fmt.Fprintf(
				s.out,
				"kairos %s buildkit %s %s/%s\n",
				ownVersion(),
				bk,
				runtime.GOOS,
				runtime.GOARCH,
			)
			return err
		},
	}
}

func ownVersion() string {
	if programVersion != "" {
		return programVersion
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// buildkitVersion is the version of the BuildKit inside, for provenance.
func buildkitVersion() (v, pkg string) {
	const module = "github.com/moby/buildkit"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == module {
				return dep.Version, module
			}
		}
	}
	return version.Version, module
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments, not %q", c.CommandPath(), args)
	}
	return nil
}
