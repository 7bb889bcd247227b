package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node"
)

func (a *app) install() *cobra.Command {
	var o node.InstallOptions
	var configFile, from, passphrase string
	var yes, unattended bool
	var power afterwards
	c := &cobra.Command{
		Use:   "install",
		Short: "Install the live medium's system to a disk",
		Long: `Install the system that runs from this live medium to a disk: everything on the disk is erased.
The disk gets six partitions, boots on UEFI and on BIOS, and has the same release as active
and as recovery system. It asks before it erases; --yes answers beforehand.

The medium's boot menu has this command, too, and one that installs without asking (with
kairos.install=auto on the kernel's command line).

Settings come from the cloud-config that is embedded in the medium, from volumes labelled cidata
(user-data) or config-2 (openstack/latest/user_data), and from kairos.config_url= on the kernel's
command line (with http:// it takes kairos.config_sha256=), merged in this order; or from --config
alone. The installation reads the block install: (sizes are MiB):

` + config.Outline("install") + `
With auto, a disk that holds the medium's system already is started instead, and any other waits for a person.
It waits up to 90 seconds for a disk, and up to two minutes for a network where an image is in a registry. A stage
that asks a network waits for it itself.
The whole config is kept on the disk, where the rest of it (users, hostname, write_files, runcmd, stages)
takes effect at every boot. Its stages kairos-install.pre and before-install run before the disk is
changed, after-install and kairos-install.after when all is on it.

Partitions of install.encrypted_partitions are LUKS2. Their recovery key is made here, shown once, and kept nowhere;
the console asks for it, or for the passphrase of --passphrase-file, at each start.

With -o json the output is one object: device, release, version, recoveryKey.

` + exitCodes,
		Example: `  kairos-apply install
  kairos-apply install --device /dev/sda --config config.yaml --yes --reboot`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if unattended && !bootedAs(layout.RoleLive) {
				return nil
			}
			if err := power.check(); err != nil {
				return err
			}
			return a.work(c.Context(), func(m *node.Machine) (err error) {
				if configFile == "" {
					o.Config, o.RawConfig, err = m.MediumConfig(c.Context())
				} else if o.RawConfig, err = os.ReadFile(configFile); err == nil {
					o.Config = config.Merge(config.Parse(configFile, o.RawConfig))
				}
				if err != nil {
					return err
				}
				if from != "" {
					if _, err := source.Parse(from); err != nil {
						return &usageError{err}
					}
					o.Source = from
				}
				if passphrase != "" {
					if o.Passphrase, err = readPassphrase(passphrase); err != nil {
						return err
					}
				}
				if unattended && !m.InstallWanted(o.Config.Install().Auto) {
					return nil
				}
				if !yes && !unattended {
					o.Confirm = a.confirmErase
				}
				o.Confirmed = o.Confirm != nil || yes && o.Device != "" && o.Device != "auto"
				p := a.progress()
				o.Progress, o.Unattended = p.show, unattended
				r, err := m.Install(c.Context(), o)
				p.end()
				var there *node.InstalledError
				if errors.As(err, &there) {
					return a.installedAlready(c.Context(), m, there)
				}
				if err != nil {
					a.showRecoveryKey(r.RecoveryKey) // the disk may be complete, and start
					return err
				}
				i := o.Config.Install()
				then := power.over(c, i.Reboot, i.PowerOff)
				if unattended {
					a.ejectAtTheEnd(m)
				}
				if a.json {
					return errors.Join(a.printJSON(r), then.do(c.Context()))
				}
				a.showRecoveryKey(r.RecoveryKey)
				fmt.Fprintf(
					a.out,
					"Release %s is installed on %s. Take the medium out and restart the machine.\n",
					r.Release,
					r.Device,
				)
				return then.do(c.Context())
			})
		},
	}
	f := c.Flags()
	f.StringVar(
		&o.Device,
		"device",
		"",
		"disk to erase and install to: auto or a path (default: what the config says, else auto)",
	)
	f.StringVar(&configFile, "config", "", "cloud-config `FILE` instead of the medium's")
	f.StringVar(&from, "source", "", "image to install instead of the medium's, see upgrade --help")
	f.StringVar(&passphrase, "passphrase-file", "",
		"`FILE` whose first line opens the encrypted partitions, beside the recovery key")
	f.Var((*contentSize)(&o.MaxContent), "max-content", contentHelp)
	f.BoolVarP(&yes, "yes", "y", false, "do not ask before erasing")
	power.flags(c, "")
	f.BoolVar(
		&unattended,
		"unattended",
		false,
		"as part of the start: install if the config says install.auto, else do nothing",
	)
	return c
}

// showRecoveryKey shows it, this once.
func (a *app) showRecoveryKey(key string) {
	if key != "" {
		fmt.Fprintf(a.out, "\nThe recovery key of the encrypted partitions is\n\n    %s\n\n"+
			"Write it down now: it is shown this once, and kept nowhere. The console asks for it at a start.\n\n", key)
	}
}

// readPassphrase reads what opens the encrypted partitions beside the recovery key: a file's first line.
func readPassphrase(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPassphrase+2))
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) < minPassphrase || len(line) > maxPassphrase {
		return nil, &usageError{fmt.Errorf("%s: the passphrase has %d bytes: want %d to %d, in the file's first line",
			name, len(line), minPassphrase, maxPassphrase)}
	}
	return line, nil
}

// Bounds of a passphrase in bytes: below, it is guessed; above, a console does not take it in one line.
const minPassphrase, maxPassphrase = 8, 512

// installedAlready starts the system that an unattended installation has found on the disk, or says why it does not.
func (a *app) installedAlready(ctx context.Context, m *node.Machine, e *node.InstalledError) error {
	if e.Start {
		fmt.Fprintln(a.err, "kairos-apply:", e)
		a.ejectAtTheEnd(m)
		return node.Restart(ctx)
	}
	return errors.Join(e, m.Say(e))
}

// ejectAtTheEnd has the medium leave its drive, so that it does not start again. That is no part of the installation.
func (a *app) ejectAtTheEnd(m *node.Machine) {
	if err := m.EjectAtTheEnd(); err != nil {
		fmt.Fprintln(a.err, "kairos-apply:", err)
	}
}

// eject is what systemd runs at the end.
func (a *app) eject() *cobra.Command {
	return &cobra.Command{
		Use:    "eject",
		Short:  "As part of the end: eject the medium that was installed from",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return node.Eject("/") },
	}
}

// bootedAs says whether this machine was booted in a role.
func bootedAs(role string) bool {
	b, err := node.ReadBoot("/")
	return err == nil && b.Role == role
}

// confirmErase asks a person. Without a terminal there is nobody to ask.
func (a *app) confirmErase(d node.Device) error {
	fmt.Fprintf(a.err, "This erases %s.\nType yes to go on: ", d)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if strings.TrimSpace(line) == "yes" {
		return nil
	}
	if err != nil && line == "" {
		return &usageError{errors.New("nobody answered: use --yes to install without asking")}
	}
	return &node.RefusedError{What: "nothing was changed: the answer was not yes"}
}

// confirm asks a person whether to go on.
func (a *app) confirm(what string) error {
	fmt.Fprintf(a.err, "%s\nType yes to go on: ", what)
	line, _ := bufio.NewReader(a.in).ReadString('\n')
	if strings.TrimSpace(line) != "yes" {
		return &node.RefusedError{What: "nothing was changed: the answer was not yes; --yes answers beforehand"}
	}
	return nil
}

func (a *app) reset() *cobra.Command {
	var o node.ResetOptions
	var yes, unattended bool
	var power afterwards
	c := &cobra.Command{
		Use:   "reset",
		Short: "Erase the node and install it again from its recovery system",
		Long: `Format the state and the persistent partition, and install the recovery system's release as the
active one. What the node has kept is gone; its cloud-config stays, unless --oem is given.
Runs in the recovery system: choose it in the boot menu, or by ` + "`kairos-apply boot recovery`" + `.

What the flags do not say, the block reset: of the cloud-config says. Its stages before-reset and after-reset run.

` + config.Outline("reset") + `
` + "`kairos-apply boot reset --yes --reboot`" + ` does it from the running system, and so does the menu's
entry "reset": with kairos.reset on its command line the recovery system does it by itself, and with
reset.auto in the config where neither the active nor the passive release has a try left.

With -o json the output is one object: release, version, changed.

` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if unattended && !bootedAs(layout.RoleRecovery) {
				return nil
			}
			if err := power.check(); err != nil {
				return err
			}
			return a.work(c.Context(), func(m *node.Machine) error {
				if !yes && !unattended && m.Boot.Role == layout.RoleRecovery {
					if err := a.confirm("This erases all that the node has kept."); err != nil {
						return err
					}
				}
				conf := m.Config().Reset() // before it is erased
				if unattended {
					if wanted, err := m.ResetWanted(conf.Auto); err != nil || !wanted {
						return err
					}
				}
				if !c.Flags().Changed("oem") {
					o.OEM = conf.OEM
				}
				p := a.progress()
				o.Progress, o.Unattended = p.show, unattended
				r, err := m.Reset(c.Context(), o)
				p.end()
				if err != nil {
					a.showRecoveryKey(r.RecoveryKey)
					return err
				}
				if err := a.printResult(r, "is active already"); err != nil {
					return err
				}
				if !a.json {
					a.showRecoveryKey(r.RecoveryKey)
				}
				return power.over(c, conf.Reboot || unattended && !conf.PowerOff, conf.PowerOff).do(c.Context())
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&o.OEM, "oem", false, "erase the node's cloud-config too")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask before erasing")
	power.flags(c, "")
	f.BoolVar(
		&unattended,
		"unattended",
		false,
		"as part of the start: reset if the start or the config says so, without asking, and restart afterwards",
	)
	return c
}
