// Package qemu starts virtual machines, for `kairos run` and for the project's tests.
//
// A [Machine] is a value; [Machine.Command] turns it into a QEMU command line. The serial
// console is the program's standard input and output. The package runs nothing by itself but
// the probe for a working KVM.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Firmware is what starts the machine's boot loader.
type Firmware string

const (
	UEFI Firmware = "uefi" // OVMF
	BIOS Firmware = "bios" // SeaBIOS; amd64 only
)

// Machine describes a virtual machine. The zero value, with drives added, boots them
// under UEFI with 1 GiB of memory.
type Machine struct {
	Arch     string   // amd64 or arm64, default the host's
	Firmware Firmware // default UEFI
	Accel    Accel    // default Auto
	Memory   int      // MiB, default 1024
	CPUs     int      // default 2 with KVM and 1 in software, see [Accel]

	Drives []Drive // tried in this order
	NoNet  bool    // no network card; otherwise user networking, the host's loopback is 10.0.2.2
	// Forwards opens ports of the host's loopback address to the machine's ports.
	Forwards []Forward

	// Vars is the file with the UEFI variables. It is made from the firmware's template
	// where it does not exist, and must be set for UEFI.
	Vars string
	// Variables are in that file when it is made, such as a firmware's keys.
	Variables []Variable
	// SecureBoot: the firmware can enforce signatures, and does so when it has keys. amd64 only.
	SecureBoot bool
	// TPM is what [StartTPM] returns; nil for none. amd64 only.
	TPM *os.File
	// Serial2 is the path of a Unix socket that something listens on: the second serial port
	// connects to it, ttyS1. amd64 only.
	Serial2 string
	// QMP is the path of a Unix socket for QEMU's machine protocol, "" for none.
	QMP string
	// Monitor puts QEMU's monitor on the console too, as -nographic does: Ctrl-A X ends the
	// machine, Ctrl-A H lists the other keys.
	Monitor bool
	// NoVGA leaves out the graphics card.
	NoVGA bool
	// NoReboot makes QEMU exit when the machine resets.
	NoReboot bool
	// Args are more arguments for QEMU.
	Args []string
}

// Forward is a TCP port of the host's 127.0.0.1 that reaches the machine's port. Host 0 is one that the host chooses;
// QEMU's monitor shows it with "info usernet".
type Forward struct {
	Host, Guest int
}

// Command returns the QEMU command for the machine, with standard input and output left
// for the caller to set: they are the serial console. The process is killed when ctx ends
// and when the thread that starts it ends, with this process or before: where threads may end,
// it is for a goroutine that has its thread for itself ([runtime.LockOSThread]).
func (m Machine) Command(ctx context.Context) (*exec.Cmd, error) {
	m = m.withDefaults()
	program, err := findProgram(m.Arch)
	if err != nil {
		return nil, err
	}
	if m.Accel == Auto {
		m.Accel = detect(ctx, program, m.Arch)
	}
	if m.CPUs == 0 {
		m.CPUs = m.Accel.cpus()
	}
	args, err := m.args()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if m.TPM != nil {
		cmd.ExtraFiles = []*os.File{m.TPM}
	}
	return cmd, nil
}

func (m Machine) withDefaults() Machine {
	if m.Arch == "" {
		m.Arch = runtime.GOARCH
	}
	if m.Firmware == "" {
		m.Firmware = UEFI
	}
	if m.Memory == 0 {
		m.Memory = 1024
	}
	return m
}

func (m Machine) args() ([]string, error) {
	args := []string{
		"-nodefaults", "-no-user-config",
		"-m", strconv.Itoa(m.Memory),
		"-smp", strconv.Itoa(m.CPUs),
		"-accel", m.Accel.option(),
		"-cpu", m.Accel.cpu(m.Arch),
		"-display", "none",
		// Only the drives below are tried, so that a medium that does not boot fails at once
		// and not after the network and a firmware shell.
		"-boot", "strict=on",
		"-device", "virtio-rng-pci",
	}
	if m.Accel == Counted {
		args = append(args, "-icount", "shift=1")
	}
	switch m.Arch {
	case "amd64":
		if m.SecureBoot {
			args = append(args, "-machine", "q35,smm=on")
		} else {
			args = append(args, "-machine", "q35")
		}
	case "arm64":
		args = append(args, "-machine", "virt")
	default:
		return nil, fmt.Errorf("virtual machine: unknown architecture %q: want amd64 or arm64", m.Arch)
	}
	if m.Monitor {
		args = append(args, "-serial", "mon:stdio")
	} else {
		args = append(args, "-serial", "stdio", "-monitor", "none")
	}
	if m.Serial2 != "" {
		args = append(args, "-serial", "unix:"+escape(m.Serial2))
	}
	if !m.NoVGA && m.Arch == "amd64" {
		args = append(args, "-vga", "std")
	}
	if m.NoReboot {
		args = append(args, "-no-reboot")
	}
	if m.QMP != "" {
		args = append(args, "-qmp", "unix:"+escape(m.QMP)+",server=on,wait=off")
	}

	if m.TPM != nil {
		if m.Arch != "amd64" {
			return nil, errors.New("virtual machine: a TPM is for amd64")
		}
		// The first file that the process gets besides its standard ones.
		args = append(args, "-chardev", "socket,id=tpm,fd=3", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
			"-device", "tpm-tis,tpmdev=tpm0")
	}
	firmware, err := m.firmwareArgs()
	if err != nil {
		return nil, err
	}
	args = append(args, firmware...)
	drives, err := driveArgs(m.Drives, m.Arch)
	if err != nil {
		return nil, err
	}
	args = append(args, drives...)
	if !m.NoNet {
		net := "user,id=net0"
		for _, f := range m.Forwards {
			net += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", f.Host, f.Guest)
		}
		// No option ROM: nothing boots from the network.
		args = append(args, "-netdev", net, "-device", "virtio-net-pci,netdev=net0,romfile=")
	}
	return slices.Concat(args, m.Args), nil
}

// escape writes a path for QEMU's comma-separated options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }

func findProgram(arch string) (string, error) {
	name, pkg := "qemu-system-x86_64", "qemu-system-x86"
	if arch == "arm64" {
		name, pkg = "qemu-system-aarch64", "qemu-system-arm"
	}
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		return "", fmt.Errorf("virtual machine: %w", err)
	}
	if err != nil {
		return "", fmt.Errorf(
			"%s not found: install QEMU (Debian and Ubuntu: apt-get install %s; "+
				"elsewhere the package is often called qemu)",
			name,
			pkg,
		)
	}
	return path, nil
}

// readable says whether a file is there for reading.
func readable(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
