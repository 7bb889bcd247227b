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
	var recovery bool
	c := &cobra.Command{
		Use:   "wait [RELEASE]",
		Short: "Wait until a release is blessed or has failed",
		Long: `Wait until it is decided what becomes of a release: without a name, of the one that an upgrade or a
rollback has activated last. It changes nothing, mounts nothing, and may be asked again after each restart.

With --recovery it is decided about a new recovery system, which is started once before it takes the old one's
place. Then RELEASE has to be named.

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
			if recovery && release == "" {
				return &usageError{errors.New("--recovery: name the RELEASE")}
			}
			return a.waitFor(c.Context(), release, recovery, timeout)
		},
	}
	c.Flags().BoolVar(&recovery, "recovery", false, "wait for a recovery system instead")
	c.Flags().DurationVar(&timeout, "timeout", waitTimeout, "how long to wait")
	return c
}

// waitFor waits for a release, and says what has become of it.
func (a *app) waitFor(ctx context.Context, release string, recovery bool, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errors.New("the time is over"))
	defer cancel()
	wait := node.Wait
	if recovery {
		wait = node.WaitRecovery
	}
	r, err := wait(ctx, release, func() (api.Status, error) { return node.Look("/") }, waitEvery)
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
	fellBack := r.Outcome == api.OutcomeFellBack
	switch {
	case fellBack && r.Recovery:
		return fmt.Sprintf("%s has failed, and the recovery system is the one before: %s\n", name, r.Failure.Reason)
	case fellBack:
		return fmt.Sprintf("%s has failed, and another one runs: %s\n", name, r.Failure.Reason)
	case r.Recovery:
		return name + " is the recovery system.\n"
	}
	return name + " is blessed and runs.\n"
}

// isActive says whether a release boots next.
func isActive(release string) bool {
	s, err := node.Look("/")
	return (err == nil || errors.Is(err, node.ErrNotKnown)) && s.Active != nil && s.Active.Release == release
}
