package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/node"
)

// work runs do on the opened machine, alone: in a mount namespace of its own, and with the
// lock that keeps a second run away. It waits for another command as --wait-lock says.
func (a *app) work(ctx context.Context, do func(*node.Machine) error) error {
	if _, err := node.ReadBoot("/"); err != nil {
		return err // whoever asks: this is no node
	}
	return a.privately(ctx, func() error { return a.locked(ctx, a.waitLock, node.Open, do) })
}

// locked runs do on the machine, as open opens it, while no other command is at work on it, in a mount namespace of
// its own.
func (a *app) locked(
	ctx context.Context,
	wait time.Duration,
	open func() (*node.Machine, error),
	do func(*node.Machine) error,
) (err error) {
	unlock, err := node.Lock(ctx, "/", node.LockOptions{
		Who:  a.command,
		Wait: wait,
		Waiting: func(who string) {
			a.progress().show(api.Event{
				Step: api.StepNote,
				Text: "waiting until another kairos-apply has ended: " + who,
			})
		},
	})
	if err != nil {
		return err
	}
	defer unlock()
	m, err := open()
	if err != nil {
		return err
	}
	defer func() {
		if cerr := errors.Join(m.Remember(), m.Close()); err == nil {
			err = cerr
		}
	}()
	return do(m)
}

// activate runs do, which makes a release boot next, shows its progress and its result, and does what do says of the
// time after that, unless that release runs already; unchanged says what it is where nothing changed. With wait it
// ends when that release is blessed or has failed.
func (a *app) activate(
	ctx context.Context,
	wait bool,
	unchanged string,
	do func(*node.Machine, node.Progress) (api.Result, afterwards, error),
) error {
	if _, err := node.ReadBoot("/"); err != nil {
		return err // whoever asks: this is no node
	}
	return a.privately(ctx, func() error {
		var then afterwards
		var r api.Result
		err := a.locked(ctx, a.waitLock, node.Open, func(m *node.Machine) error {
			p := a.progress()
			var err error
			r, then, err = do(m, p.show)
			p.end()
			if err != nil || wait && !toRestart(r) {
				return err
			}
			return a.printResult(r, unchanged)
		})
		if wait && errors.As(err, new(*node.FailedError)) {
			err = nil // of which waiting tells
		}
		switch {
		case err != nil:
			return err
		case !wait && (node.RestartWanted("/") || r.OnTrial):
			return then.do(ctx)
		case !wait:
			return nil
		case toRestart(r) && (r.Recovery || isActive(r.Release)):
			return afterwards{reboot: true}.do(ctx)
		}
		return a.waitFor(ctx, r.Release, r.Recovery, waitTimeout)
	})
}

// toRestart says whether a release that somebody waits for is decided by a restart.
func toRestart(r api.Result) bool {
	if r.Recovery {
		return r.OnTrial
	}
	return node.RestartWanted("/")
}

func (a *app) upgrade() *cobra.Command {
	var o node.UpgradeOptions
	var power afterwards
	var check, packages, wait bool
	c := &cobra.Command{
		Use:   "upgrade [SOURCE]",
		Short: "Make an image the release that boots next",
		Long: `Fetch an image, and make it the release that boots next, on trial: it has three boots to prove
healthy (see bless). If it does not, the boot loader goes back to the release that runs now.

Only layers that the node does not have are fetched and written. Where the image's release is
published beside it ("kairos release"), and the image is named by a tag, only those blocks of them are
fetched that no layer here has, and nothing is converted. Interrupted at any point,
the node boots what it booted before, and the same command works again. Until the machine is
restarted /run/reboot-required is there. A caller that repeats the command by itself, such as a
cluster, wants --unless-failed: without it a release that fails is tried again each time.

What the arguments do not say, the block upgrade: of the node's cloud-config says. --reboot=false and the like
overrule it. The stages before-upgrade and after-upgrade of the config run where there is something to upgrade.

` + config.Outline("upgrade") + `
Sources:
` + source.Help + `
Registries are reached as /etc/containerd/certs.d says (containerd's hosts.toml: mirrors, CAs,
plain HTTP), with credentials from /etc/kairos/auth.json, /oem/auth.json or
/root/.docker/config.json.

Where /etc/containers/policy.json is there, in the image that runs or on the node, an image that it does not accept is
refused before anything of it is fetched: unsigned, or signed by somebody else (docs/security.md).

With --containerd the node's running daemon keeps what is fetched. The release's layers are its
snapshots too, where its configuration has
  [plugins."io.containerd.snapshotter.v1.erofs"]
    layer_content_caches = ["/run/kairos/store/blobs"]

With --recovery the new recovery system is put beside the old one, and the next start is its, once: it shows that it
comes up, and restarts the machine by itself. Then it takes the old one's place; if it did not come up, it goes,
and status says why. Neither costs the active release a try. Where it cannot be started once (no room
for both on the ESP, an image of an older version), or with --no-trial, it takes that place when it was read
back from the disk.

With --check nothing changes: it says what would be fetched, written and removed, and which labels
io.kairos.* and packages (dpkg's and apk's) differ from what runs. Its exit code is 0 where there is
nothing to do, 9 where an upgrade would change what boots, and 6 where it would be refused. Packages of
a registry's image are known where the node has the layers that tell of them; --packages reads those
that it does not have, without keeping them.

With --stage the release is fetched and verified, and what boots next stays: the same command without it is
short then, and fetches nothing. A gc in between takes it away again.

With --wait the machine is restarted, which ends the command with it. The same command after that, such as
over a new connection, does not upgrade again: it ends when the release is blessed, with 0, or when it has
failed and another one runs, with 10. With --recovery it ends when the new recovery system has the old one's
place, or has failed and the old one keeps it. kairos-apply wait does only that.

With -o json the output is one object: release, version, changed (whether another release
boots next than before), onTrial (a new recovery system is started once),
removed (releases that no role needs any more), and where a published
release was fetched: fetched, reused, written (bytes of its new layers), ranges, requests, and with --wait outcome
("blessed", "fell back") and failure; with --check what package
api calls an UpgradeCheck.

` + exitCodes,
		Example: `  kairos-apply upgrade registry.example/os:v2 --reboot
  kairos-apply upgrade oci-archive:/usr/local/os-v2.tar
  kairos-apply upgrade registry.example/os:v2 --check -o json
  kairos-apply upgrade registry.example/os:v2 --recovery
  kairos-apply upgrade registry.example/os:v2 --containerd /run/containerd/containerd.sock`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if len(args) > 0 {
				if o.Source, err = source.Parse(args[0]); err != nil {
					return &usageError{err}
				}
			}
			if err := power.check(); err != nil {
				return err
			}
			configured := func(m *node.Machine) (config.Upgrade, error) {
				u := m.Config().Upgrade()
				if !c.Flags().Changed("recovery") {
					o.Recovery = u.Recovery
				}
				if len(args) > 0 {
					return u, nil
				}
				o.Source, err = configuredSource(u, o.Recovery)
				return u, err
			}
			if check || packages {
				return a.checkUpgrade(c.Context(), func(m *node.Machine) (node.CheckOptions, error) {
					_, err := configured(m)
					return node.CheckOptions{UpgradeOptions: o, Packages: packages}, err
				})
			}
			do := func(m *node.Machine, p node.Progress) (r api.Result, then afterwards, err error) {
				u, err := configured(m)
				if err != nil {
					return r, then, err
				}
				o.Progress = p
				o.UnlessFailed = o.UnlessFailed || wait
				if o.StageOnly && (wait || o.Recovery || power.reboot || power.poweroff) {
					return r, then, &usageError{errors.New("--stage activates nothing: " +
						"leave out --wait, --recovery, --reboot and --poweroff")}
				}
				r, err = m.Upgrade(c.Context(), o)
				if o.StageOnly {
					return r, then, err
				}
				return r, power.over(c, u.Reboot, u.PowerOff), err
			}
			unchanged := "is active already"
			if o.StageOnly {
				unchanged = "is staged"
			}
			return a.activate(c.Context(), wait, unchanged, do)
		},
	}
	c.Flags().BoolVar(&check, "check", false, "only say what an upgrade would do")
	c.Flags().BoolVar(&wait, "wait", false, "restart the machine, and end when the release is blessed or has failed")
	c.Flags().BoolVar(&packages, "packages", false,
		"with --check: fetch what tells of the image's packages, without keeping it")
	c.Flags().BoolVar(&o.UnlessFailed, "unless-failed", false, "refuse a release that has failed on this node before")
	c.Flags().BoolVar(&o.Recovery, "recovery", false, "upgrade the recovery system instead")
	c.Flags().BoolVar(&o.NoTrial, "no-trial", false,
		"with --recovery: replace the recovery system at once, without starting the new one before")
	c.Flags().BoolVar(&o.StageOnly, "stage", false,
		"fetch and verify the release, and leave what boots next as it is: the upgrade itself is short then")
	c.Flags().StringVar(&o.Release, "release", "", "refuse an image of another release than this `ID`")
	power.flags(c, unlessRuns)
	c.Flags().
		StringVar(&o.Containerd, "containerd", "", "let the containerd at this `ADDRESS` fetch and keep the layers")
	c.Flags().StringVar(&o.Namespace, "namespace", "", "namespace of that containerd (default kairos)")
	c.Flags().Var((*contentSize)(&o.MaxContent), "max-content", contentHelp)
	c.Flags().
		StringVar(&o.Registry.HostsDir, "hosts-dir", "",
			"folder with a hosts.toml for each registry (default /etc/containerd/certs.d)")
	return c
}

const unlessRuns = ", unless the release runs already"

// configuredSource is the image that the config names for an upgrade.
func configuredSource(u config.Upgrade, recovery bool) (source.Ref, error) {
	name, key := u.Source, "upgrade.source or upgrade.system.source"
	if recovery {
		name, key = u.RecoverySource, "upgrade.source or upgrade.recovery-system.source"
	}
	if name == "" {
		return source.Ref{}, &usageError{fmt.Errorf("no image is named: give a SOURCE, or write %s "+
			"into the cloud-config\nSee `kairos-apply upgrade --help`", key)}
	}
	ref, err := source.Parse(name)
	if err != nil {
		return ref, fmt.Errorf("cloud-config: %s: %w", key, err)
	}
	return ref, nil
}

// contentSize is a flag's value, a size in bytes.
type contentSize int64

const contentHelp = "`SIZE` that new layers may have in all, uncompressed (default 16 times what is free there)"

func (c *contentSize) String() string {
	if *c == 0 {
		return ""
	}
	return units.BytesSize(float64(*c))
}

func (c *contentSize) Type() string { return "size" }

func (c *contentSize) Set(s string) error {
	n, err := units.RAMInBytes(s)
	if err != nil || n <= 0 {
		return errors.New("want a size such as 512M or 40G")
	}
	*c = contentSize(n)
	return nil
}

func (a *app) rollback() *cobra.Command {
	var power afterwards
	var wait bool
	c := &cobra.Command{
		Use:   "rollback [RELEASE]",
		Short: "Make the passive release, or the one that is named, boot next",
		Long: `Make another release that this node has boot next, on trial like after an upgrade. Without a
name it is the one that is not active. A release that failed can be named too.

With --wait, which takes a RELEASE, the machine is restarted, and the same command after that ends when the
release is blessed, with 0, or has failed, with 10.

With -o json the output is one object: release, version, changed, removed.

` + exitCodes,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id := ""
			if len(args) > 0 {
				id = args[0]
			}
			if err := power.check(); err != nil {
				return err
			}
			if wait && id == "" {
				return &usageError{errors.New("--wait: name the RELEASE: the same command tells of it afterwards")}
			}
			do := func(m *node.Machine, p node.Progress) (api.Result, afterwards, error) {
				if wait {
					if err := m.RefuseFailed(id); err != nil {
						return api.Result{Release: id}, power, err
					}
				}
				r, err := m.Rollback(c.Context(), id, p)
				return r, power, err
			}
			return a.activate(c.Context(), wait, "is active already", do)
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "restart the machine, and end when the release is blessed or has failed")
	power.flags(c, unlessRuns)
	return c
}

func (a *app) gc() *cobra.Command {
	return &cobra.Command{
		Use:   "gc",
		Short: "Remove releases and layers that no role needs",
		Long: `Remove releases that are neither booted, active, passive nor recovery, their layers, and what
interrupted commands have left. Upgrade and rollback do this by themselves. Where there is nothing to remove, nothing
is mounted.

With -o json the output is one object: removed (ids of releases).

` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			// Most runs find nothing, and a mount is a line in the kernel's log.
			if clean, err := node.Clean("/"); err == nil && clean {
				return a.printRemoved(nil)
			}
			return a.work(c.Context(), func(m *node.Machine) error {
				p := a.progress()
				gone, err := m.GC(c.Context(), p.show)
				p.end()
				if err != nil {
					return err
				}
				return a.printRemoved(gone)
			})
		},
	}
}

func (a *app) printRemoved(ids []string) error {
	if a.json {
		return a.printJSON(api.GCResult{Removed: append([]string{}, ids...)})
	}
	for _, id := range ids {
		fmt.Fprintln(a.out, "Removed release", id)
	}
	return nil
}

func (a *app) printResult(r api.Result, unchanged string) error {
	if a.json {
		return a.printJSON(r)
	}
	name := "Release " + r.Release
	if r.Version != "" {
		name += " (" + r.Version + ")"
	}
	switch {
	case r.OnTrial:
		fmt.Fprintf(a.out, "%s is started once by the next start, and is the recovery system when it has come up. "+
			"Restart the machine for that.\n", name)
	case !r.Changed:
		fmt.Fprintf(a.out, "%s %s.\n", name, unchanged)
	case r.Recovery:
		fmt.Fprintf(a.out, "%s is the recovery system now.\n", name)
	default:
		fmt.Fprintf(a.out, "%s boots next, on trial. Restart the machine to start it.\n", name)
	}
	switch mb := func(n int64) float64 { return float64(n) / 1e6 }; {
	case r.Written > 0:
		fmt.Fprintf(a.out, "Fetched %.1f MB (reused %.1f MB of %.1f).\n", mb(r.Fetched), mb(r.Reused), mb(r.Written))
	case r.Fetched > 0:
		fmt.Fprintf(a.out, "Fetched %s.\n", megabytes(r.Fetched))
	}
	for _, id := range r.Removed {
		fmt.Fprintln(a.out, "Removed release", id)
	}
	return nil
}
