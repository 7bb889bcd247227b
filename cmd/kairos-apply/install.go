package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node"
)

func (a *app) install() *cobra.Command {
	var o node.InstallOptions
	var configFile, source string
	var yes, unattended, reboot, poweroff bool
	c := &cobra.Command{
		Use:   "install",
		Short: "Install the live medium's system to a disk",
		Long: `Install the system that runs from this live medium to a disk: everything on the disk is erased.
The disk gets six partitions, boots on UEFI and on BIOS, and has the same release as active
and as recovery system. It asks before it erases; --yes answers beforehand.

Settings come from the cloud-config that is embedded in the medium, from a volume labelled
cidata, from kairos.config_url= on the kernel's command line, or from --config. Kairos reads the block

  install:
    auto: true            # install without asking when the medium starts
    device: auto          # the largest disk, or a path such as /dev/disk/by-id/...
    reboot: true          # or poweroff: true
    source: oci:...       # an image to install instead of the medium's
    no-format: false      # true: keep the partitions, and what OEM and PERSISTENT hold
    partitions:
      oem: {size: 64}     # MiB; also efi, recovery, state, persistent
    extra-partitions:
      - {name: data, label: DATA, size: 1024, fs: ext4}
    bind_mounts: [/var/lib/app]
    ephemeral_mounts: []
    grub_options: {extra_cmdline: "quiet"}

and keeps the whole config on the disk, where the rest of it (users, hostname, write_files, runcmd)
takes effect at every boot.

With -o json the output is one object: device, release, version.

` + exitCodes,
		Example: `  kairos-apply install
  kairos-apply install --device /dev/sda --config config.yaml --yes --reboot`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if unattended && !bootedAs(layout.RoleLive) {
				return nil
			}
			then := ""
			err := a.work(c.Context(), 0, func(m *node.Machine) (err error) {
				if o.RawConfig, err = a.installConfig(c.Context(), m, configFile); err != nil {
					return err
				}
				if o.Config, err = node.ParseConfig(o.RawConfig); err != nil {
					return err
				}
				if source != "" {
					if _, err := node.ParseSource(source); err != nil {
						return &usageError{err}
					}
					o.Config.Install.Source = source
				}
				if unattended && !o.Config.Install.Auto {
					return nil
				}
				if !yes && !unattended {
					o.Confirm = a.confirmErase
				}
				p := a.progress()
				o.Progress = p.show
				r, err := m.Install(c.Context(), o)
				p.end()
				if err != nil {
					return err
				}
				if reboot || unattended && o.Config.Install.Reboot {
					then = "reboot"
				}
				if poweroff || unattended && o.Config.Install.PowerOff {
					then = "poweroff"
				}
				if a.json {
					return errors.Join(a.printJSON(r), a.leave(then))
				}
				fmt.Fprintf(a.out, "Release %s is installed on %s. Take the medium out and restart the machine.\n", r.Release, r.Device)
				return a.leave(then)
			})
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&o.Device, "device", "", "disk to erase and install to: auto or a path (default: what the config says, else auto)")
	f.StringVar(&configFile, "config", "", "cloud-config `FILE` instead of the medium's")
	f.StringVar(&source, "source", "", "image to install instead of the medium's, see upgrade --help")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask before erasing")
	f.BoolVar(&reboot, "reboot", false, "restart the machine afterwards")
	f.BoolVar(&poweroff, "poweroff", false, "turn the machine off afterwards")
	f.BoolVar(&unattended, "unattended", false, "as part of the start: install if the config says install.auto, else do nothing")
	return c
}

// bootedAs says whether this machine was booted in a role.
func bootedAs(role string) bool {
	b, err := node.ReadBoot("/")
	return err == nil && b.Role == role
}

// leave restarts the machine or turns it off.
func (a *app) leave(then string) error {
	switch then {
	case "reboot":
		return node.Restart(context.Background())
	case "poweroff":
		return node.PowerOff(context.Background())
	}
	return nil
}

func (a *app) installConfig(ctx context.Context, m *node.Machine, file string) ([]byte, error) {
	if file != "" {
		return os.ReadFile(file)
	}
	return m.MediumConfig(ctx)
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

func (a *app) reset() *cobra.Command {
	var o node.ResetOptions
	var yes, unattended, reboot bool
	c := &cobra.Command{
		Use:   "reset",
		Short: "Make the node anew from its recovery system",
		Long: `Make the state and the persistent partition anew, and install the recovery system's release as the
active one. What the node has kept is gone; its cloud-config stays, unless --oem is given.
Runs in the recovery system: choose it in the boot menu.

With kairos.reset on the kernel's command line the recovery system does it by itself.

With -o json the output is one object: release, version, changed.

` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if unattended && !bootedAs(layout.RoleRecovery) {
				return nil
			}
			return a.work(c.Context(), 0, func(m *node.Machine) error {
				if !yes && !unattended && m.Boot.Role == layout.RoleRecovery {
					fmt.Fprint(a.err, "This erases all that the node has kept.\nType yes to go on: ")
					line, _ := bufio.NewReader(a.in).ReadString('\n')
					if strings.TrimSpace(line) != "yes" {
						return &node.RefusedError{What: "nothing was changed: the answer was not yes; --yes answers beforehand"}
					}
				}
				p := a.progress()
				o.Progress = p.show
				r, err := m.Reset(c.Context(), o)
				p.end()
				if err != nil {
					return err
				}
				if err := a.printResult(r, "is active already"); err != nil {
					return err
				}
				if reboot || unattended {
					return node.Restart(context.WithoutCancel(c.Context()))
				}
				return nil
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&o.OEM, "oem", false, "erase the node's cloud-config too")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask before erasing")
	f.BoolVar(&reboot, "reboot", false, "restart the machine afterwards")
	f.BoolVar(&unattended, "unattended", false, "as part of the start: do not ask, and restart afterwards")
	return c
}

func (a *app) config() *cobra.Command {
	var boot bool
	c := &cobra.Command{
		Use:   "config",
		Short: "Show the node's cloud-config, or apply it as part of the start",
		Args:  cobra.NoArgs,
		Long: `Show the cloud-config of this node: the files in /oem, merged in the order of their names.

--boot applies it; that is part of the start, before any service runs. An image that has
cloud-init gets the config as its NoCloud seed. In others hostname, users,
ssh_authorized_keys, write_files and runcmd take effect.

` + exitCodes,
		RunE: func(c *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errNotRoot
			}
			if boot {
				const done = "/" + layout.RunDir + "/configured"
				if _, err := os.Stat(done); err == nil {
					return nil
				}
				if err := node.ApplyConfig("/"); err != nil {
					return err
				}
				return os.WriteFile(done, nil, 0o644)
			}
			b, err := node.ReadBoot("/")
			if err != nil {
				return err
			}
			conf, err := node.NodeConfig("/", b)
			if err != nil {
				return err
			}
			return a.printJSON(conf.All)
		},
	}
	c.Flags().BoolVar(&boot, "boot", false, "apply it, once for each boot")
	return c
}
