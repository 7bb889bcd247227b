package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/node"
)

func (a *app) runStage() *cobra.Command {
	var analyze bool
	c := &cobra.Command{
		Use:   "run-stage STAGE",
		Short: "Run a stage of the node's cloud-config",
		Long: `Run the steps that the configs in /system/oem, /usr/local/cloud-config and /oem have for a stage, and
those of STAGE.before and STAGE.after around it. rootfs, initramfs and fs run before the image's
init starts, boot when the system is up, network when there is a network, reconcile each hour.

A step that fails does not end the others; see ` + "`kairos-apply status`" + ` for what failed.

` + exitCodes,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if os.Geteuid() != 0 {
				return errNotRoot
			}
			if !analyze {
				return node.RunStage(c.Context(), "/", args[0])
			}
			steps, err := node.AnalyzeStage(c.Context(), "/", args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(steps)
			}
			for _, s := range steps {
				line := "runs"
				if s.Skipped != "" {
					line = "skipped: " + s.Skipped
				}
				fmt.Fprintf(a.out, "%s\t%s\t%s\t%s\n", s.Stage, s.Where, dash(s.Name), line)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&analyze, "analyze", false, "only show which steps would run; their conditions (if:) are asked")
	return c
}

// online is what a unit of the node runs.
func (a *app) online() *cobra.Command {
	return &cobra.Command{
		Use:    "online",
		Short:  "As part of the start: wait for a network, run the stage network, fetch public keys",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errNotRoot
			}
			return node.Online(c.Context(), "/")
		},
	}
}
