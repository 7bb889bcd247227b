package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/node"
)

// afterwards is what the machine does when a command has ended: the flags say it, or the config where they do not.
type afterwards struct{ reboot, poweroff bool }

func (p *afterwards) flags(c *cobra.Command, unless string) {
	c.Flags().BoolVar(&p.reboot, "reboot", false, "restart the machine afterwards"+unless)
	c.Flags().BoolVar(&p.poweroff, "poweroff", false, "turn the machine off afterwards"+unless)
}

// check refuses what contradicts itself.
func (p *afterwards) check() error {
	if p.reboot && p.poweroff {
		return &usageError{errors.New("--reboot and --poweroff: want one of them")}
	}
	return nil
}

// over returns what is to be done where a config says reboot and poweroff: one flag that is there counts for both.
func (p *afterwards) over(c *cobra.Command, reboot, poweroff bool) afterwards {
	if c.Flags().Changed("reboot") || c.Flags().Changed("poweroff") {
		return *p
	}
	return afterwards{reboot, poweroff}
}

// do restarts the machine or turns it off.
func (p afterwards) do(ctx context.Context) error {
	switch {
	case p.poweroff:
		return node.PowerOff(ctx)
	case p.reboot:
		return node.Restart(ctx)
	}
	return nil
}
