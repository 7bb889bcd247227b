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
	"strings"
	"syscall"

	"github.com/containerd/log"
	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/node"
)

// version is set when the program is linked.
var version = "dev"

// Exit codes. They are part of what scripts may rely on.
const (
	exitFailed    = 1 // nothing that boots was changed, unless the message says otherwise
	exitUsage     = 2
	exitNotRoot   = 3
	exitLocked    = 4 // another run is at work
	exitNoNode    = 5 // not an installed node
	exitRefused   = 6 // refused before anything was changed: space, architecture, image without boot layer
	exitUnhealthy = 7 // health checks failed
)

const exitCodes = `Exit codes:
  0  done, or nothing to do
  1  failed; what boots was not changed, unless the message says otherwise
  2  wrong use of the command line
  3  needs root
  4  another kairos-apply is at work
  5  this is no installed node (a container, a live medium, another system)
  6  refused before anything was changed: no space, wrong architecture, image that cannot boot
  7  health checks failed
`

func main() {
	_ = log.SetLevel("fatal") // containerd's parts return their errors; what they also log is no message for people
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// app is what the commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	json     bool
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
	fmt.Fprintln(errOut, "kairos-apply:", err)
	return exitCode(err)
}

func exitCode(err error) int {
	var usage *usageError
	var refused *node.RefusedError
	var unhealthy *node.UnhealthyError
	switch {
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		return exitUsage
	case errors.Is(err, errNotRoot):
		return exitNotRoot
	case errors.Is(err, node.ErrLocked):
		return exitLocked
	case errors.Is(err, node.ErrNotNode), errors.Is(err, node.ErrNotInstalled):
		return exitNoNode
	case errors.As(err, &refused):
		return exitRefused
	case errors.As(err, &unhealthy):
		return exitUnhealthy
	}
	return exitFailed
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
		Version:           version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: func(*cobra.Command, []string) error {
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
	c.PersistentFlags().StringVarP(&output, "output", "o", "text", "what to print: text or json")
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w\nSee `%s --help`", err, c.CommandPath())}
	})
	c.AddCommand(a.status(), a.upgrade(), a.rollback(), a.bless(), a.install(), a.reset(), a.gc(), a.config())
	for _, sub := range c.Commands() {
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
	return c
}
