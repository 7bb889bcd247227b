// Command kairos-operator rolls releases out to the nodes of a Kubernetes cluster, and runs commands on them.
// `kairos-operator helper` and `kairos-operator restart` are what its helper pods run on a node, `kairos-operator
// agent` what tells a cluster of a node, and `kairos-operator fleet` is for people; under the name kubectl-kairos that
// is all that there is. The work is done by packages of fleet.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/helper"
	"github.com/kairos-buildkit/kairos/fleet/operator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	c := root()
	name := filepath.Base(os.Args[0])
	if name == plugin {
		c = newFleet().command()
		c.Use, c.Annotations = plugin, map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl kairos"}
	}
	err := c.ExecuteContext(ctx)
	stop()
	os.Exit(code(os.Stderr, name, err))
}

// code is a command's exit code; why it failed is printed, unless that has been told.
func code(w io.Writer, name string, err error) int {
	var told exit
	var usage usageError
	switch {
	case err == nil:
		return int(api.ExitDone)
	case errors.As(err, &told):
		return int(told)
	}
	fmt.Fprintf(w, "%s: %v\n", name, err)
	if errors.As(err, &usage) {
		return int(api.ExitUsage)
	}
	return int(api.ExitFailed)
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "kairos-operator",
		Short:         "Roll releases out to the nodes of a cluster, and run commands on them",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	c.AddCommand(manager(), helperCommand(), restartCommand(), agentCommand(), newFleet().command())
	return c
}

func manager() *cobra.Command {
	var o operator.Options
	var metrics, probes, namespace string
	var elect bool
	c := &cobra.Command{
		Use:   "manager",
		Short: "Carry out NodeOpUpgrades and NodeOps",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if name := os.Getenv("POD_NAME"); name != "" {
				o.Pod = os.Getenv("POD_NAMESPACE") + "/" + name
			}
			ctrl.SetLogger(logr.FromSlogHandler(logTo(os.Stderr)))
			config, err := ctrl.GetConfig()
			if err != nil {
				return err
			}
			scheme, err := operator.Scheme()
			if err != nil {
				return err
			}
			m, err := ctrl.NewManager(config, ctrl.Options{
				Scheme: scheme, Cache: operator.Cache(),
				Metrics:                metricsserver.Options{BindAddress: metrics},
				HealthProbeBindAddress: probes,
				LeaderElection:         elect, LeaderElectionID: "operator.kairos.io",
				LeaderElectionNamespace: namespace, LeaderElectionReleaseOnCancel: true,
			})
			if err != nil {
				return err
			}
			if err := operator.Add(m, config, o); err != nil {
				return err
			}
			err = errors.Join(m.AddHealthzCheck("ping", healthz.Ping), m.AddReadyzCheck("ping", healthz.Ping))
			if err != nil {
				return err
			}
			return m.Start(c.Context())
		},
	}
	c.Flags().StringVar(&o.HelperImage, "image", os.Getenv("KAIROS_OPERATOR_IMAGE"),
		"image of helper pods: this program's own (default $KAIROS_OPERATOR_IMAGE)")
	c.Flags().StringVar(&o.OpImage, "nodeop-image", os.Getenv("NODEOP_DEFAULT_IMAGE"),
		"image of NodeOps that name none (default $NODEOP_DEFAULT_IMAGE, else busybox:latest)")
	c.Flags().StringVar(&metrics, "metrics", ":8080", "address to serve Prometheus' metrics at; 0 is none")
	c.Flags().StringVar(&probes, "probes", ":8081", "address to serve /healthz and /readyz at")
	c.Flags().BoolVar(&elect, "leader-elect", true, "let one of several operators work at a time")
	c.Flags().StringVar(&namespace, "leader-elect-namespace", "", "namespace of the Lease (default: the pod's)")
	return c
}

func helperCommand() *cobra.Command {
	var p pod
	c := &cobra.Command{
		Use:   "helper -- ARGUMENTS...",
		Short: "Run the node's kairos-apply, and leave its answer as this pod's termination message",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.onNode(func() v1alpha1.HelperReport {
				return helper.Run(c.Context(), c.OutOrStdout(), "kairos-apply", args...)
			})
		},
	}
	p.flags(c)
	return c
}

func restartCommand() *cobra.Command {
	var p pod
	c := &cobra.Command{
		Use:   "restart BOOT-ID",
		Short: "Restart the node, where this is still its boot",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.onNode(func() v1alpha1.HelperReport {
				return helper.Restart(c.Context(), c.OutOrStdout(), v1alpha1.BootIDFile, args[0])
			})
		},
	}
	p.flags(c)
	return c
}

// pod is what a helper pod has of its node.
type pod struct{ message, namespace string }

func (p *pod) flags(c *cobra.Command) {
	c.Flags().StringVar(&p.message, "message", "/dev/termination-log", "file for the answer")
	c.Flags().StringVar(&p.namespace, "mounts", "/proc/1/ns/mnt", "mount namespace to enter")
}

// onNode runs something in the node's mounts, and leaves its answer.
func (p *pod) onNode(run func() v1alpha1.HelperReport) error {
	// Opened here: the file is the pod's, and the pod's files are out of sight then.
	f, err := os.OpenFile(p.message, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := helper.EnterMounts(p.namespace); err != nil {
		return err
	}
	if err := os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
		return err
	}
	r := run()
	if _, err := io.WriteString(f, r.String()); err != nil {
		return err
	}
	if r.Exit != 0 {
		return fmt.Errorf("the node's command ended with %d: %s", r.Exit, r.Reason)
	}
	return f.Sync()
}
