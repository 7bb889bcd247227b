package main

import (
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/kairos-buildkit/kairos/fleet/agent"
	"github.com/kairos-buildkit/kairos/layout"
)

func agentCommand() *cobra.Command {
	var node, file string
	c := &cobra.Command{
		Use:   "agent",
		Short: "Write to this machine's Node which release it runs, and whether that has proved healthy",
		Long: `Write to this machine's Node which release it runs, and whether that has proved healthy: labels, the
annotation operator.kairos.io/report and the condition KairosRelease. It reads what the node's
kairos-status.timer writes, and needs no right but to patch its own Node.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if node == "" {
				return errors.New("agent: no --node and no NODE_NAME: the pod has to name its node (spec.nodeName)")
			}
			boot, err := agent.ReadBootID()
			if err != nil {
				return err
			}
			config, err := ctrl.GetConfig()
			if err != nil {
				return err
			}
			config.Timeout = time.Minute
			clients, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return agent.Agent{
				Nodes: clients.CoreV1().Nodes(), Node: node, StatusFile: file, BootID: boot,
				Log: slog.New(logTo(os.Stderr)),
			}.Run(c.Context())
		},
	}
	c.Flags().StringVar(&node, "node", os.Getenv("NODE_NAME"), "name of the Node (default $NODE_NAME)")
	c.Flags().StringVar(&file, "status", "/"+layout.RunDir+"/status/status.json",
		"what the node's kairos-apply status -o json has printed")
	return c
}
