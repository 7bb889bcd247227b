package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/console"
	"github.com/kairos-buildkit/kairos/fleet/operator"
)

// plugin is the name under which kubectl finds this program: `kubectl kairos`.
const plugin = "kubectl-kairos"

const fleetExitCodes = `Exit codes:
  0   all nodes run the release and have proved it healthy; or have gone back, where they were told to
  1   nodes have failed, or the cluster cannot be asked
  2   wrong use of the command line
  9   the rollout is not over
  10  the release fell back on a node
`

// exit is an outcome that has been told already.
type exit api.ExitCode

func (e exit) Error() string { return api.ExitCode(e).String() }

// usageError is a wrong use of the command line.
type usageError struct{ error }

// fleet is what its commands share. Its fields are values, so that tests give them.
type fleet struct {
	out, progress io.Writer
	connect       func() (client.Client, error)
	width, height func() int // of the terminal; 0: it is none
	every         time.Duration

	kubeconfig, context, namespace, output string
}

func newFleet() *fleet {
	f := &fleet{out: os.Stdout, progress: os.Stderr, every: 2 * time.Second}
	f.connect = f.cluster
	size := func() (w, h int) {
		w, h, err := term.GetSize(int(os.Stdout.Fd()))
		if err != nil {
			return 0, 0 // no terminal
		}
		return w, h
	}
	f.width = func() int { w, _ := size(); return w }
	f.height = func() int { _, h := size(); return h }
	return f
}

func (f *fleet) cluster() (client.Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules,
		&clientcmd.ConfigOverrides{CurrentContext: f.context}).ClientConfig()
	if err != nil {
		return nil, err
	}
	config.Timeout = time.Minute
	scheme, err := operator.Scheme()
	if err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: scheme})
}

// command has the commands, below a root of its own.
func (f *fleet) command() *cobra.Command {
	c := &cobra.Command{
		Use:           "fleet",
		Short:         "Look at rollouts, begin one, pause it, take it back",
		Long:          "Look at a cluster's rollouts, begin one, pause it, take it back.\n\n" + fleetExitCodes,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	p := c.PersistentFlags()
	p.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file (default: as kubectl)")
	p.StringVar(&f.context, "context", "", "context of the kubeconfig file")
	p.StringVarP(&f.namespace, "namespace", "n", "kairos-system", "namespace of the NodeOpUpgrade")
	p.StringVarP(&f.output, "output", "o", "", "json: one object, when the command ends")
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	c.AddCommand(f.status(), f.upgrade(), f.pause(true), f.pause(false), f.rollback())
	return c
}

func (f *fleet) status() *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show all rollouts, or one and its nodes",
		Long: "Show all rollouts of the namespace, or one and its nodes: those that failed first.\n" +
			"With --watch it lives until the rollout is over.\n\n" + fleetExitCodes,
		Args: arguments(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if watch && len(args) == 0 {
				return usageError{errors.New("status --watch: name the rollout")}
			}
			cluster, err := f.connect()
			if err != nil {
				return err
			}
			if len(args) > 0 {
				return f.follow(c.Context(), cluster, args[0], watch)
			}
			all, err := console.List(c.Context(), cluster, f.namespace)
			if err != nil {
				return err
			}
			if err := f.print(all, console.Table(all)); err != nil {
				return err
			}
			return worst(all)
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "stay until the rollout is over")
	return c
}

// worst is the outcome that somebody has to look at first.
func worst(all []console.Rollout) error {
	for _, code := range []api.ExitCode{api.ExitFailed, api.ExitFellBack, api.ExitUpgrade} {
		for _, r := range all {
			if r.Outcome == code {
				return exit(code)
			}
		}
	}
	return nil
}

func (f *fleet) upgrade() *cobra.Command {
	var name, selector, maxUnavailable, onFailure string
	var waves []string
	var between time.Duration
	var recovery, force, paused, detach bool
	c := &cobra.Command{
		Use:   "upgrade IMAGE",
		Short: "Roll an image out, and stay until that is over",
		Long: `Roll an image out to the cluster's nodes: make a NodeOpUpgrade, or change the image of the one that is
there, of which what no flag names stays as it is. Ending the command ends nothing but the command.

` + fleetExitCodes,
		Example: "  kubectl kairos upgrade registry.example/os:v2 --waves 1,10% --max-unavailable 10%",
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			labels, err := metav1.ParseToLabelSelector(selector)
			if err != nil {
				return usageError{fmt.Errorf("--selector: %w", err)}
			}
			groups, err := parseWaves(waves)
			if err != nil {
				return usageError{err}
			}
			set := c.Flags().Changed
			cluster, err := f.connect()
			if err != nil {
				return err
			}
			change := func(s *v1alpha1.NodeOpUpgradeSpec) {
				for flag, do := range map[string]func(){
					"selector":            func() { s.NodeSelector = labels },
					"waves":               func() { s.Waves = groups },
					"pause-between-waves": func() { s.PauseBetweenWaves = &metav1.Duration{Duration: between} },
					"max-unavailable":     func() { v := intstr.Parse(maxUnavailable); s.MaxUnavailable = &v },
					"rollback-on-failure": func() { s.RollbackOnFailure = v1alpha1.RollbackPolicy(onFailure) },
					"recovery":            func() { s.UpgradeRecovery = &recovery },
					"force":               func() { s.Force = &force },
					"paused":              func() { s.Paused = paused },
				} {
					if set(flag) {
						do()
					}
				}
			}
			_, err = console.Upgrade(c.Context(), cluster, f.key(name), args[0], change)
			if err != nil {
				return err
			}
			return f.follow(c.Context(), cluster, name, !detach)
		},
	}
	v := c.Flags()
	v.StringVar(&name, "name", "os", "name of the NodeOpUpgrade")
	v.StringVarP(&selector, "selector", "l", "", "labels of the nodes (default: all nodes)")
	v.StringSliceVar(&waves, "waves", nil, "sizes of the waves, such as 1,10%")
	v.DurationVar(&between, "pause-between-waves", 0, "how long to wait after a wave")
	v.StringVar(&maxUnavailable, "max-unavailable", "",
		"how many nodes may be cordoned or not Ready, such as 2 or 10%")
	v.StringVar(&onFailure, "rollback-on-failure", "", "who goes back when a node fails: None, Wave or All")
	v.BoolVar(&recovery, "recovery", false, "upgrade the recovery systems, too")
	v.BoolVar(&force, "force", false, "try the release again where it has failed before")
	v.BoolVar(&paused, "paused", false, "begin with no node yet")
	v.BoolVarP(&detach, "detach", "d", false, "do not stay")
	return c
}

func parseWaves(sizes []string) (waves []v1alpha1.Wave, err error) {
	for _, s := range sizes {
		n := intstr.Parse(strings.TrimSpace(s))
		if v, err := intstr.GetScaledValueFromIntOrPercent(&n, 100, true); err != nil || v <= 0 {
			return nil, fmt.Errorf("--waves: %q is neither a number of nodes nor a percentage", s)
		}
		waves = append(waves, v1alpha1.Wave{Nodes: &n})
	}
	return waves, nil
}

func (f *fleet) pause(paused bool) *cobra.Command {
	use, short := "resume NAME", "Go on with a rollout, and stay until it is over"
	if paused {
		use, short = "pause NAME", "Begin with no further node; what is cordoned is finished"
	}
	var detach bool
	c := &cobra.Command{
		Use: use, Short: short, Args: arguments(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			cluster, err := f.connect()
			if err != nil {
				return err
			}
			if err := console.Pause(c.Context(), cluster, f.key(args[0]), paused); err != nil {
				return err
			}
			if !paused {
				return f.follow(c.Context(), cluster, args[0], !detach)
			}
			// A rollout that is paused is not over, and that is what was asked for.
			if err := f.follow(c.Context(), cluster, args[0], false); !errors.Is(err, exit(api.ExitUpgrade)) {
				return err
			}
			return nil
		},
	}
	if !paused {
		c.Flags().BoolVarP(&detach, "detach", "d", false, "do not stay")
	}
	return c
}

func (f *fleet) rollback() *cobra.Command {
	var detach bool
	c := &cobra.Command{
		Use:   "rollback NAME",
		Short: "Take all nodes of a rollout back to what they ran before, and stay until that is over",
		Args:  arguments(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			cluster, err := f.connect()
			if err != nil {
				return err
			}
			if err := console.Rollback(c.Context(), cluster, f.key(args[0])); err != nil {
				return err
			}
			return f.follow(c.Context(), cluster, args[0], !detach)
		},
	}
	c.Flags().BoolVarP(&detach, "detach", "d", false, "do not stay")
	return c
}

// follow shows a rollout, once or until it is over, and returns its outcome.
func (f *fleet) follow(ctx context.Context, c client.Client, name string, stay bool) error {
	if !stay {
		r, err := console.Look(ctx, c, f.key(name))
		if err != nil {
			return err
		}
		return f.ended(r, false)
	}
	width, height := f.width(), f.height()
	live := width > 0 && f.output == ""
	screen := console.Screen{Out: f.out}
	var failed error
	last := ""
	r, err := console.Watch(ctx, c, f.key(name), f.every, func(r console.Rollout) {
		switch {
		case live:
			failed = errors.Join(failed, screen.Show(r.Text(time.Now(), max(1, height-6)), width))
		case r.Line() != last:
			last = r.Line()
			fmt.Fprintln(f.progress, last)
		}
	}, func(err error) { fmt.Fprintln(f.progress, "the cluster does not answer, and is asked again:", err) })
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	return f.ended(r, live)
}

func (f *fleet) ended(r console.Rollout, shown bool) error {
	if !shown {
		if err := f.print(r, r.Text(time.Now(), 0)); err != nil {
			return err
		}
	}
	if r.Outcome == api.ExitDone {
		return nil
	}
	return exit(r.Outcome)
}

func (f *fleet) print(v any, text string) error {
	switch f.output {
	case "":
		_, err := io.WriteString(f.out, text)
		return err
	case "json":
		e := json.NewEncoder(f.out)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	return usageError{fmt.Errorf("--output %s: there is json", f.output)}
}

func (f *fleet) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: f.namespace, Name: name}
}

func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}
