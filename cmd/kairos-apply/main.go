// Command kairos-apply is the node agent: it installs a machine, upgrades it, decides
// whether a boot was healthy, rolls back and resets. The work is done by package node.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/node"
)

// version is set when the program is linked, see scripts/version.
var version = ""

// programVersion says which sources this is built from.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

var exitCodes = "Exit codes:\n" + api.ExitCodes()

func main() {
	_ = log.SetLevel("fatal") // containerd's parts return their errors; what they also log is no message for people
	debug.SetGCPercent(node.GCPercent)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, arguments(os.Args), os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// app is what the commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	json     bool
	command  string        // the one that runs, without the program's name
	waitLock time.Duration // how long to wait for another command
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, err: errOut}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var child *childExit
	if errors.As(err, &child) {
		return child.code // it has said why
	}
	var outcome *outcomeError
	if errors.As(err, &outcome) {
		return int(outcome.code)
	}
	if a.json {
		a.progress().show(api.Event{Step: api.StepError, Text: err.Error()})
	} else {
		fmt.Fprintln(errOut, "kairos-apply:", err)
	}
	return int(exitCode(err))
}

func exitCode(err error) api.ExitCode {
	var usage *usageError
	var refused *node.RefusedError
	var installed *node.InstalledError
	var unhealthy *node.UnhealthyError
	var damaged *node.DamagedError
	switch {
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		return api.ExitUsage
	case errors.Is(err, errNotRoot):
		return api.ExitNotRoot
	case errors.Is(err, node.ErrLocked):
		return api.ExitLocked
	case errors.Is(err, node.ErrNotNode), errors.Is(err, node.ErrNotInstalled):
		return api.ExitNoNode
	case errors.As(err, &refused), errors.As(err, &installed):
		return api.ExitRefused
	case errors.As(err, &unhealthy):
		return api.ExitUnhealthy
	case errors.As(err, &damaged):
		return api.ExitDamaged
	}
	return api.ExitFailed
}

// usageError is a mistake on the command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

var errNotRoot = errors.New("this needs root: run it with sudo")

func (a *app) root() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "kairos-apply",
		Short: "Install, upgrade and recover a Kairos node",
		Long: `kairos-apply installs and upgrades a Kairos node from the same OCI images that containers run.

A node has up to three releases: the active one boots next, the passive one boots when the
active one fails three times, and the recovery system boots when both fail. An upgrade
never touches the release that runs or the last one known good, and takes effect with one
write to the disk: whatever interrupts it, the node boots what it booted before.

` + exitCodes,
		Example: `  kairos-apply status
  kairos-apply upgrade registry.example/os:v2 --reboot
  kairos-apply rollback --reboot`,
		Version:           programVersion(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			a.command = strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
			switch output {
			case "text":
			case "json":
				a.json = true
			default:
				return &usageError{fmt.Errorf("-o %s: want text or json", output)}
			}
			return nil
		},
	}
	c.PersistentFlags().
		StringVarP(&output, "output", "o", "text", "what to print: text, or json and progress as JSON lines on stderr")
	c.PersistentFlags().DurationVar(&a.waitLock, "wait-lock", 2*time.Minute,
		"how long to wait until another kairos-apply has ended, such as that of the start, or that of the timer")
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w\nSee `%s --help`", err, c.CommandPath())}
	})
	c.AddCommand(
		a.status(),
		a.upgrade(),
		a.rollback(),
		a.wait(),
		a.boot(),
		a.bless(),
		a.install(),
		a.reset(),
		a.gc(),
		a.verify(),
		a.logs(),
		a.config(),
		a.runStage(),
		a.online(),
		a.eject(),
		a.agentLacks(),
	)
	argsAreUsage(c)
	return c
}

// argsAreUsage has wrong arguments of all commands end with exitUsage.
func argsAreUsage(c *cobra.Command) {
	for _, sub := range c.Commands() {
		argsAreUsage(sub)
		check := sub.Args
		sub.Args = func(c *cobra.Command, args []string) error {
			if check == nil {
				return nil
			}
			if err := check(c, args); err != nil {
				return &usageError{fmt.Errorf("%w\nSee `%s --help`", err, c.CommandPath())}
			}
			return nil
		}
	}
}
