package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

type runOptions struct {
	uefi, bios  bool
	cdrom, disk bool
	arch        string
	accel       string
	memory      string
	cpus        int
	drives      []string
	ports       []string
	snapshot    bool
	qemuArgs    []string
	secureBoot  bool
	keys, state string
	tpm         bool
}

// newRunCommand is `kairos run`.
func newRunCommand(s streams) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] FILE [-- QEMU-ARGUMENT...]",
		Short: "Boot an ISO or a disk image in a virtual machine",
		Long: `Boots FILE in QEMU, with the machine's serial console on the terminal.

Ctrl-A X ends the machine, Ctrl-A H shows the other keys. An ISO boots as a CD, or with
--disk as a USB stick or disk would; a disk image (raw or qcow2) boots as a disk.
What the machine writes to an image stays in it, unless --snapshot is given; an ISO is
never written to.

The machine reaches the network through the host; the host's loopback address is 10.0.2.2
in the machine. --publish opens the machine's ports on the host's loopback address.

--secure-boot starts it with firmware that can enforce Secure Boot: in setup mode, where the
medium enrolls keys, or with the keys of --keys, a folder as kairos keys new --secure-boot
makes it. --tpm adds a TPM 2.0 in software. Firmware and TPM forget everything when the machine
ends, unless --state names a folder to keep it in.

Without a working KVM the machine runs in software emulation: allow a minute or two
until the login prompt.`,
		Example: `  kairos run os.iso
  kairos run --bios --memory 2g os.iso
  kairos run --publish 2222:22 os.iso        # then: ssh -p 2222 user@localhost
  kairos run --drive target.qcow2 os.iso     # with a disk to install to
  kairos run --secure-boot --keys keys os.iso`,
		Args: func(cmd *cobra.Command, args []string) error {
			files := len(args)
			if i := cmd.ArgsLenAtDash(); i >= 0 {
				files = i
			}
			if files != 1 {
				return usagef(
					"%s needs one FILE, an ISO or a disk image\nSee `%s --help`",
					cmd.CommandPath(),
					cmd.CommandPath(),
				)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.qemuArgs = args[1:]
			return o.run(cmd.Context(), args[0], s)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.uefi, "uefi", false, "boot with UEFI firmware (default)")
	f.BoolVar(&o.bios, "bios", false, "boot with a PC BIOS")
	f.BoolVar(&o.cdrom, "cdrom", false, "attach FILE as a CD (default for ISOs)")
	f.BoolVar(&o.disk, "disk", false, "attach FILE as a disk (default for anything else)")
	f.StringVarP(&o.memory, "memory", "m", "1g", "memory of the machine")
	f.IntVar(&o.cpus, "cpus", 0, "processors of the machine (default 2, in software emulation 1)")
	f.StringArrayVar(&o.drives, "drive", nil, "attach another disk image, raw or qcow2 (repeatable)")
	f.StringArrayVarP(
		&o.ports,
		"publish",
		"p",
		nil,
		"open a port of the machine on the host's loopback address, as HOST:GUEST (repeatable)",
	)
	f.BoolVar(&o.snapshot, "snapshot", false, "throw away what the machine writes to its disks")
	f.StringVar(&o.arch, "arch", "", "architecture of the machine: amd64 or arm64 (default the host's)")
	f.StringVar(&o.accel, "accel", "", "kvm or tcg, software emulation (default kvm where it works)")
	f.BoolVar(&o.secureBoot, "secure-boot", false, "boot with firmware that can enforce Secure Boot (amd64)")
	f.StringVar(&o.keys, "keys", "", "with --secure-boot: the folder with PK.auth, KEK.auth and db.auth to enforce")
	f.BoolVar(&o.tpm, "tpm", false, "add a TPM 2.0 in software, by swtpm (amd64)")
	f.StringVar(&o.state, "state", "", "folder that keeps the UEFI variables and the TPM's state between runs")
	cmd.MarkFlagsMutuallyExclusive("uefi", "bios")
	cmd.MarkFlagsMutuallyExclusive("secure-boot", "bios")
	cmd.MarkFlagsMutuallyExclusive("cdrom", "disk")
	return cmd
}

func (o runOptions) run(ctx context.Context, file string, s streams) error {
	m, err := o.machine(file)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kairos-run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	state := dir
	if o.state != "" {
		if err := os.MkdirAll(o.state, 0o700); err != nil {
			return err
		}
		state = o.state
	}
	m.Vars = filepath.Join(state, "vars.fd")
	if _, err := os.Stat(m.Vars); err == nil && len(m.Variables) > 0 {
		return usagef("--keys: %s has the variables of a machine already: leave --keys out, or use another --state",
			m.Vars)
	}
	runtime.LockOSThread() // QEMU and swtpm end with the thread that starts them
	defer runtime.UnlockOSThread()
	if o.tpm {
		tpm, wait, err := qemu.StartTPM(ctx, state)
		if err != nil {
			return err
		}
		defer wait()
		defer tpm.Close()
		m.TPM = tpm
	}
	cmd, err := m.Command(ctx)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	// Not SIGKILL: QEMU gives the terminal back as it found it.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("virtual machine: QEMU failed: %w (its message is above)", err)
	}
	return nil
}

// machine turns the command line into a machine.
func (o runOptions) machine(file string) (qemu.Machine, error) {
	m := qemu.Machine{
		Arch:     o.arch,
		Firmware: qemu.UEFI,
		Accel:    qemu.Accel(o.accel),
		CPUs:     o.cpus,
		Monitor:  true,
		Args:     o.qemuArgs,
	}
	if o.bios {
		m.Firmware = qemu.BIOS
	}
	switch m.Accel {
	case qemu.Auto, qemu.KVM, qemu.TCG:
	default:
		return m, usagef("--accel %s: want kvm or tcg", o.accel)
	}
	memory, err := units.RAMInBytes(o.memory)
	if err != nil || memory < 128<<20 {
		return m, usagef("--memory %s: want at least 128m, for example 2g", o.memory)
	}
	m.Memory = int(memory >> 20)

	m.SecureBoot = o.secureBoot
	if o.keys != "" {
		if !o.secureBoot {
			return m, usagef("--keys is for --secure-boot")
		}
		if m.Variables, err = enrolled(o.keys); err != nil {
			return m, err
		}
	}
	for i, path := range append([]string{file}, o.drives...) {
		format, err := imageFormat(path)
		if err != nil {
			return m, err
		}
		d := qemu.Drive{Path: path, Format: format, Snapshot: o.snapshot}
		if format == formatISO {
			d.Format = "raw"
			d.CDROM = i > 0 || !o.disk
			d.Snapshot = true
		} else if i == 0 && o.cdrom {
			d.CDROM = true
		}
		m.Drives = append(m.Drives, d)
	}
	for _, p := range o.ports {
		host, guest, ok := strings.Cut(p, ":")
		h, err := strconv.ParseUint(host, 10, 16)
		g, err2 := strconv.ParseUint(guest, 10, 16)
		if !ok || err != nil || err2 != nil || h == 0 || g == 0 {
			return m, usagef("--publish %s: want HOST:GUEST, two port numbers, for example 2222:22", p)
		}
		m.Forwards = append(m.Forwards, qemu.Forward{Host: int(h), Guest: int(g)})
	}
	return m, nil
}

const formatISO = "iso"

// imageFormat tells an ISO, a qcow2 and a raw disk by their content.
func imageFormat(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		return "", fmt.Errorf("%s is a folder: want an ISO or a disk image", path)
	}
	head := make([]byte, 4)
	volume := make([]byte, 5) // ECMA-119 8.4.2: sector 16, after one byte of type
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if _, err := f.ReadAt(volume, 16*2048+1); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	switch {
	case string(volume) == "CD001":
		return formatISO, nil
	case string(head) == "QFI\xfb":
		return "qcow2", nil
	}
	return "raw", nil
}
