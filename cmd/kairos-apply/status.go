package main

import (
	"encoding/json"
	"errors"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/node"
)

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what is booted, what boots next, and what failed",
		Long: `Show the releases of this node and their roles.

  booted    the release that runs
  active    boots next
  passive   boots when the active one has used up its tries
  recovery  boots when both have
  failed    used up its tries; its report says why, as far as it could be written

With -o json the output is one object:

  schema    1; grows when a field changes its meaning
  mode      "installed", "recovery", "live", or "none" in a container
  firmware  "uefi" or "bios"
  booted, active, passive, recovery
            each, where there is one:
              release    id: the first 12 hex digits of the image's config digest
              version    KAIROS_VERSION of the image
              image      the reference that it was taken from
              blessed    whether it has proved healthy
              triesLeft, triesUsed
              problem    why it cannot boot, where that is known
              failure    {reason, log} of the last time that it failed
  failed    a list of the same

` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := node.ReadBoot("/")
			if errors.Is(err, node.ErrNotNode) {
				return a.printStatus(node.Status{Schema: 1, Mode: "none"})
			}
			return a.privately(c.Context(), func() error {
				m, err := node.OpenReadOnly()
				if err != nil {
					return err
				}
				defer m.Close()
				s, err := m.Status()
				if err != nil {
					return err
				}
				return a.printStatus(s)
			})
		},
	}
}

func (a *app) printStatus(s node.Status) error {
	if a.json {
		return a.printJSON(s)
	}
	return s.Text(a.out)
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
