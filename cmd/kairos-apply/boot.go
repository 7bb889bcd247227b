package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/node"
)

func (a *app) boot() *cobra.Command {
	var reboot, yes bool
	c := &cobra.Command{
		Use:   "boot [active|passive|recovery|reset|RELEASE]",
		Short: "Choose what starts next, once",
		Long: `Choose what the machine starts next. It holds for one start: the one after it is what it was
before. Without an argument it lists what there is to choose.

  active     what starts anyway: this takes back an earlier choice
  passive    the release that is fallen back to
  recovery   the recovery system
  reset      the recovery system, which erases what the machine keeps, installs its own release and
             restarts, without asking: it takes --yes, or a person who confirms
  RELEASE    a release by its id, also one that failed; its tries are counted as always

Under UEFI the firmware's variable LoaderEntryOneShot says so to systemd-boot, under BIOS
grubenv to GRUB.

With -o json the output is one object: choice, release, version; without an argument a list of
them.

` + exitCodes,
		Example: `  kairos-apply boot passive --reboot
  kairos-apply boot reset --yes --reboot`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.withStatus(c.Context(), a.printChoices)
			}
			err := a.work(c.Context(), func(m *node.Machine) error {
				if args[0] == loader.ChooseReset && !yes {
					if err := a.confirm("The next start erases all that the node has kept."); err != nil {
						return err
					}
				}
				chosen, err := m.StartNext(args[0])
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(chosen)
				}
				_, err = fmt.Fprintf(a.out, "The next start is %s, release %s. Restart the machine for it.\n",
					chosen.Choice, chosen.Release)
				return err
			})
			if err != nil || !reboot || private() {
				return err
			}
			return node.Restart(context.WithoutCancel(c.Context()))
		},
	}
	c.Flags().BoolVar(&reboot, "reboot", false, "restart the machine afterwards")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask before a reset")
	return c
}

func (a *app) printChoices(s api.Status) error {
	choices := node.Choices(s)
	if a.json {
		return a.printJSON(append([]api.BootChoice{}, choices...))
	}
	t := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "CHOICE\tRELEASE\tVERSION")
	for _, c := range choices {
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.Choice, c.Release, dash(c.Version))
	}
	return t.Flush()
}
