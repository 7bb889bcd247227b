package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node"
)

func (a *app) bless() *cobra.Command {
	var boot, patient bool
	c := &cobra.Command{
		Use:   "bless",
		Short: "Run the health checks, and end the running release's trial if they pass",
		Long: `Decide whether the running system is healthy. All executables in /usr/lib/kairos/health.d (the
image's) and /etc/kairos/health.d (the node's) must exit with 0 before the deadline, ordered by
name; on systemd, boot-complete.target must be reached. A file of the node takes the place of
the image's file of the same name.

Shipped checks are turned on by name, by the image's label io.kairos.health or the config's health.checks:
  network   there is a default route, and what health.network (label io.kairos.health.network) names
            answers: a URL, or oci: and an image's reference
  kubelet   the kubelet lives, and its node is Ready
  units     no unit has failed
With the label io.kairos.soak, or health.soak, a release on trial has to stay healthy for that time. What
cannot be asked, or is not there yet, is asked again until the deadline.

A healthy release has nine tries from then on, which each healthy boot arms again. One that is not
healthy keeps its counter: after three boots on trial, or nine of a release that was healthy before, the
boot loader goes back to the release before it.

The image runs this by itself when it has started. The deadline is 600 seconds after the start
of the machine, or what kairos.deadline= on the kernel's command line says.

A new recovery system, which "upgrade --recovery" has started once, is found good when it has come as far as
this; with --boot the machine restarts then.

With -o json the output is one object: release, outcome ("blessed", "good already",
"not on trial", "unhealthy"), checks ({name, ok, output}), problems (strings).

` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if boot && bootedAs(layout.RoleLive) {
				return nil
			}
			err := a.assessed(c.Context(), boot, patient, func(m *node.Machine, v node.Verdict) error {
				if boot {
					// Neither may keep a healthy system from being blessed.
					if err := m.CollectPanic(); err != nil {
						fmt.Fprintln(a.err, "kairos-apply:", err)
					}
					defer func() {
						if err := m.Banner(); err != nil {
							fmt.Fprintln(a.err, "kairos-apply:", err)
						}
					}()
				}
				result, err := m.Bless(v)
				for _, p := range result.Problems {
					fmt.Fprintln(a.err, "kairos-apply:", p)
				}
				var unhealthy *node.UnhealthyError
				if boot && !m.Boot.Trial && errors.As(err, &unhealthy) {
					// It was healthy once: it may be again, and somebody may be working on it.
					err = fmt.Errorf(
						"release %s was healthy before and keeps running, though it has used up a try: %s",
						result.Release,
						unhealthy.Reason,
					)
				}
				if a.json {
					err = errors.Join(err, a.printJSON(result))
				} else if err == nil {
					fmt.Fprintf(a.out, "Release %s: %s.\n", result.Release, result.Outcome)
				}
				return err
			})
			if b, berr := node.ReadBoot("/"); boot && !private() && berr == nil && b.OnTrial() {
				fmt.Fprintln(a.err, "kairos-apply: the recovery system was on trial: restarting")
				return errors.Join(err, node.Restart(c.Context()))
			}
			if boot && a.unhealthy(err) && !private() {
				fmt.Fprintln(a.err, "kairos-apply: restarting, so that the boot loader can go on")
				return errors.Join(err, node.Restart(c.Context()))
			}
			return err
		},
	}
	c.Flags().BoolVar(&boot, "boot", false, "as part of the start: restart the machine if it is not healthy")
	c.Flags().BoolVar(&patient, "patient", false,
		"ask again until the deadline where a check says no: for an init that does not say when the system is up")
	return c
}

// assessed runs the health checks, and then do with what they say. The checks run beside whatever is at work on this
// machine; what do changes waits for that: a healthy boot has time, an unhealthy one has to restart before the guard
// does it.
func (a *app) assessed(ctx context.Context, boot, patient bool, do func(*node.Machine, node.Verdict) error) error {
	b, err := node.ReadBoot("/")
	if err != nil {
		return err
	}
	return a.privately(ctx, func() error {
		v := node.Assess(ctx, "/", b, patient)
		var wait time.Duration
		switch {
		case boot && v.Err == nil:
			wait = 24 * time.Hour
		case boot:
			wait = time.Minute
		}
		open := func() (*node.Machine, error) { return node.OpenToBless(v) }
		err := a.locked(ctx, wait, open, func(m *node.Machine) error { return do(m, v) })
		if errors.Is(err, node.ErrLocked) && v.Err != nil {
			return v.Err // which has to go on, report or not
		}
		return err
	})
}

// unhealthy says whether an error, of this process or of its child, means failed health checks.
func (a *app) unhealthy(err error) bool {
	var child *childExit
	var u *node.UnhealthyError
	return errors.As(err, &u) || errors.As(err, &child) && child.code == int(api.ExitUnhealthy)
}
