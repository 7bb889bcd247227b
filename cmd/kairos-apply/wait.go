package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/node"
)

const (
	// waitTimeout is longer than three tries of a release that hangs.
	waitTimeout = time.Hour
	waitEvery   = 2 * time.Second
)

func (a *app) wait() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "wait [RELEASE]",
		Short: "Wait until a release is blessed or has failed",
		Long: `Wait until it is decided what becomes of a release: without a name, of the one that an upgrade or a
rollback has activated last. It changes nothing, mounts nothing, and may be asked again after each restart.

The exit code is 0 when the release is blessed and runs, 10 when it has used up its tries and another one
runs, and 1 when neither has happened in time.

With -o json the output is one object: release, version, outcome ("blessed", "fell back"), failure
({reason, log}).

` + exitCodes,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := node.ReadBoot("/"); err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errNotRoot
			}
			release := ""
			if len(args) > 0 {
				release = args[0]
			}
			return a.waitFor(c.Context(), release, timeout)
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", waitTimeout, "how long to wait")
	return c
}

// waitFor waits for a release, and says what has become of it.
func (a *app) waitFor(ctx context.Context, release string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errors.New("the time is over"))
	defer cancel()
	r, err := node.Wait(ctx, release, func() (api.Status, error) { return node.Look("/") }, waitEvery)
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(r)
	} else {
		_, err = fmt.Fprint(a.out, outcomeText(r))
	}
	if err == nil && r.Outcome == api.OutcomeFellBack {
		return &outcomeError{api.ExitFellBack}
	}
	return err
}

// outcomeText says what has become of a release.
func outcomeText(r api.Result) string {
	name := "Release " + r.Release
	if r.Version != "" {
		name += " (" + r.Version + ")"
	}
	if r.Outcome == api.OutcomeFellBack {
		return fmt.Sprintf("%s has failed, and another one runs: %s\n", name, r.Failure.Reason)
	}
	return name + " is blessed and runs.\n"
}

// active says whether a release boots next.
func active(s api.Status, release string) bool { return s.Active != nil && s.Active.Release == release }
