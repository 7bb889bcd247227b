package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node"
)

func (a *app) bless() *cobra.Command {
	var boot bool
	c := &cobra.Command{
		Use:   "bless",
		Short: "Run the health checks, and end the running release's trial if they pass",
		Long: `Decide whether the running system is healthy. All executables in /usr/lib/kairos/health.d (the
image's) and /etc/kairos/health.d (the node's) must exit with 0 before the deadline, ordered by
name; on systemd, boot-complete.target must be reached. A file of the node takes the place of
the image's file of the same name.

A healthy release boots from then on without being counted. One that is not healthy keeps
its counter: after three boots the boot loader goes back to the release before it.

The image runs this by itself when it has started. The deadline is 600 seconds after the start
of the machine, or what kairos.deadline= on the kernel's command line says.

With -o json the output is one object: release, outcome ("blessed", "good already",
"not on trial", "unhealthy"), checks ({name, ok, output}).

` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if boot && bootedAs(layout.RoleLive) {
				return nil
			}
			var wait time.Duration
			if boot {
				wait = 5 * time.Minute // somebody is upgrading already
			}
			err := a.work(c.Context(), wait, func(m *node.Machine) error {
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
				result, err := m.Bless(c.Context())
				if a.json {
					err = errors.Join(err, a.printJSON(result))
				} else if err == nil {
					fmt.Fprintf(a.out, "Release %s: %s.\n", result.Release, result.Outcome)
				}
				return err
			})
			if boot && a.unhealthy(err) && !private() {
				fmt.Fprintln(a.err, "kairos-apply: restarting, so that the boot loader can go on")
				return errors.Join(err, node.Restart(c.Context()))
			}
			return err
		},
	}
	c.Flags().BoolVar(&boot, "boot", false, "as part of the start: restart the machine if it is not healthy")
	return c
}

// unhealthy says whether an error, of this process or of its child, means failed health checks.
func (a *app) unhealthy(err error) bool {
	var child *childExit
	var u *node.UnhealthyError
	return errors.As(err, &u) || errors.As(err, &child) && child.code == exitUnhealthy
}
