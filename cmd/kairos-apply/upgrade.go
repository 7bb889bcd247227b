package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/node"
)

// work runs do on the opened machine, alone: in a mount namespace of its own, and with the
// lock that keeps a second run away.
func (a *app) work(ctx context.Context, wait time.Duration, do func(*node.Machine) error) error {
	if _, err := node.ReadBoot("/"); err != nil {
		return err // whoever asks: this is no node
	}
	return a.privately(ctx, func() (err error) {
		unlock, err := node.Lock(ctx, "/", wait)
		if err != nil {
			return err
		}
		defer unlock()
		m, err := node.Open()
		if err != nil {
			return err
		}
		defer func() {
			if cerr := m.Close(); err == nil {
				err = cerr
			}
		}()
		return do(m)
	})
}

// activate runs do, which makes a release boot next, shows its progress and its result, and restarts
// the machine if so asked, unless that release runs already.
func (a *app) activate(ctx context.Context, reboot bool, do func(*node.Machine, node.Progress) (node.Result, error)) error {
	err := a.work(ctx, 0, func(m *node.Machine) error {
		p := a.progress()
		r, err := do(m, p.show)
		p.end()
		if err != nil {
			return err
		}
		return a.printResult(r, "is active already")
	})
	if err != nil || !reboot || private() || !node.RestartWanted("/") {
		return err
	}
	return node.Restart(ctx)
}

func (a *app) upgrade() *cobra.Command {
	var o node.UpgradeOptions
	var reboot bool
	c := &cobra.Command{
		Use:   "upgrade SOURCE",
		Short: "Make an image the release that boots next",
		Long: `Fetch an image, and make it the release that boots next, on trial: it has three boots to prove
healthy (see bless). If it does not, the boot loader goes back to the release that runs now.

Only layers that the node does not have are fetched and written. Interrupted at any point,
the node boots what it booted before, and the same command works again. Until the machine is
restarted /run/reboot-required is there. A caller that repeats the command by itself, such as a
cluster, wants --unless-failed: without it a release that fails is tried again each time.

` + node.SourceHelp + `
Registries are reached as /etc/containerd/certs.d says (containerd's hosts.toml: mirrors, CAs,
plain HTTP), with credentials from /etc/kairos/auth.json, /oem/auth.json or
/root/.docker/config.json.

With --containerd the node's running daemon keeps what is fetched. The release's layers are its
snapshots too, where its configuration has
  [plugins."io.containerd.snapshotter.v1.erofs"]
    layer_content_caches = ["/run/kairos/store/blobs"]

With -o json the output is one object: release, version, changed (whether another release
boots next than before), removed (releases that no role needs any more).

` + exitCodes,
		Example: `  kairos-apply upgrade registry.example/os:v2 --reboot
  kairos-apply upgrade oci-archive:/usr/local/os-v2.tar
  kairos-apply upgrade registry.example/os:v2 --recovery
  kairos-apply upgrade registry.example/os:v2 --containerd /run/containerd/containerd.sock`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if o.Source, err = node.ParseSource(args[0]); err != nil {
				return &usageError{err}
			}
			return a.activate(c.Context(), reboot, func(m *node.Machine, p node.Progress) (node.Result, error) {
				o.Progress = p
				return m.Upgrade(c.Context(), o)
			})
		},
	}
	c.Flags().BoolVar(&o.UnlessFailed, "unless-failed", false, "refuse a release that has failed on this node before")
	c.Flags().BoolVar(&o.Recovery, "recovery", false, "upgrade the recovery system instead")
	c.Flags().BoolVar(&reboot, "reboot", false, "restart the machine afterwards, unless the release runs already")
	c.Flags().StringVar(&o.Containerd, "containerd", "", "let the containerd at this `ADDRESS` fetch and keep the layers")
	c.Flags().StringVar(&o.Namespace, "namespace", "", "namespace of that containerd (default kairos)")
	c.Flags().StringVar(&o.Registry.HostsDir, "hosts-dir", "", "folder with a hosts.toml for each registry (default /etc/containerd/certs.d)")
	return c
}

func (a *app) rollback() *cobra.Command {
	var reboot bool
	c := &cobra.Command{
		Use:   "rollback [RELEASE]",
		Short: "Make the passive release, or the one that is named, boot next",
		Long: `Make another release that this node has boot next, on trial like after an upgrade. Without a
name it is the one that is not active. A release that failed can be named too.

With -o json the output is one object: release, version, changed, removed.

` + exitCodes,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id := ""
			if len(args) > 0 {
				id = args[0]
			}
			return a.activate(c.Context(), reboot, func(m *node.Machine, p node.Progress) (node.Result, error) {
				return m.Rollback(c.Context(), id, p)
			})
		},
	}
	c.Flags().BoolVar(&reboot, "reboot", false, "restart the machine afterwards, unless the release runs already")
	return c
}

func (a *app) gc() *cobra.Command {
	return &cobra.Command{
		Use:   "gc",
		Short: "Remove releases and layers that no role needs",
		Long: `Remove releases that are neither booted, active, passive nor recovery, their layers, and what
commands that were cut off have left. Upgrade and rollback do this by themselves.

With -o json the output is one object: removed (ids of releases).

` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.work(c.Context(), 0, func(m *node.Machine) error {
				p := a.progress()
				gone, err := m.GC(c.Context(), p.show)
				p.end()
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(map[string]any{"removed": append([]string{}, gone...)})
				}
				for _, id := range gone {
					fmt.Fprintln(a.out, "Removed release", id)
				}
				return nil
			})
		},
	}
}

func (a *app) printResult(r node.Result, unchanged string) error {
	if a.json {
		return a.printJSON(r)
	}
	name := "Release " + r.Release
	if r.Version != "" {
		name += " (" + r.Version + ")"
	}
	switch {
	case !r.Changed:
		fmt.Fprintf(a.out, "%s %s.\n", name, unchanged)
	case r.Recovery:
		fmt.Fprintf(a.out, "%s is the recovery system now.\n", name)
	default:
		fmt.Fprintf(a.out, "%s boots next, on trial. Restart the machine to start it.\n", name)
	}
	for _, id := range r.Removed {
		fmt.Fprintln(a.out, "Removed release", id)
	}
	return nil
}
