package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/node"
)

func (a *app) verify() *cobra.Command {
	var o node.VerifyOptions
	c := &cobra.Command{
		Use:   "verify",
		Short: "Compare all that this node may boot with its digests",
		Long: `Read the layers of every release on the disk, their boot files, and what has been fetched for later, and
compare them with their digests.

--repair copies what is damaged from the other partition, fetches it again from the registry that the
release came from, or writes it again from the release's layers. A damaged part stays as it is
until the right bytes are complete beside it.

On systemd kairos-verify.timer does this once a week.

With -o json the output is one object: releases, layers, bytes (what was read), damage
({place, object, releases, problem, repaired, advice}).

` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.work(c.Context(), func(m *node.Machine) error {
				p := a.progress()
				o.Progress = p.show
				v, err := m.Verify(c.Context(), o)
				p.end()
				var damaged *node.DamagedError
				if err != nil && !errors.As(err, &damaged) {
					return err
				}
				if a.json {
					return errors.Join(err, a.printJSON(v))
				}
				a.printVerification(v)
				return err
			})
		},
	}
	c.Flags().BoolVar(&o.Repair, "repair", false, "copy or fetch again what is damaged")
	return c
}

func (a *app) printVerification(v api.Verification) {
	for _, d := range v.Damage {
		fmt.Fprintf(a.out, "Damaged: %s on %s: %s\n", d.Object, d.Place, d.Problem)
		if d.Repaired != "" {
			fmt.Fprintf(a.out, "  repaired: %s\n", d.Repaired)
		}
		if d.Advice != "" {
			fmt.Fprintf(a.out, "  %s\n", d.Advice)
		}
	}
	fmt.Fprintf(a.out, "%d releases, %d layers, %d MB read; ", v.Releases, v.Layers, v.Bytes/1_000_000)
	switch {
	case len(v.Damage) == 0:
		fmt.Fprintln(a.out, "all as it should be.")
	case v.Whole():
		fmt.Fprintf(a.out, "%d damaged, all repaired.\n", len(v.Damage))
	default:
		fmt.Fprintf(a.out, "%d damaged.\n", len(v.Damage))
	}
}
