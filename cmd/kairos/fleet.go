package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

// fleetPlugin is the program that has the commands for fleets, under the name that kubectl finds it by. It has a
// cluster's client in it, which would make this one half as large again.
const fleetPlugin = "kubectl-kairos"

func newFleetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "fleet COMMAND [FLAGS]",
		Short: "Roll a release out to the nodes of a cluster, and watch it",
		Long: `Rolls a release out to the nodes of a Kubernetes cluster, in which the operator runs, and watches it.
It is what "kubectl kairos" is: the program ` + fleetPlugin + `, beside this one or on PATH, which runs in
its place. "kairos fleet --help" lists its commands: status, upgrade, pause, resume, rollback.`,
		DisableFlagParsing: true, // they are that program's
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := findFleetPlugin()
			if err != nil {
				return err
			}
			err = syscall.Exec(path, append([]string{path}, args...), os.Environ())
			return fmt.Errorf("%s: %w", path, err)
		},
	}
}

func findFleetPlugin() (string, error) {
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), fleetPlugin)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(fleetPlugin)
	if err != nil {
		return "", fmt.Errorf("fleet: the program %s is neither beside kairos nor on PATH; `make kubectl-kairos` "+
			"builds it", fleetPlugin)
	}
	return path, nil
}
