// Package vmtest runs virtual machines in tests: boot them, talk to them over their serial
// console, cut their power.
//
//	vm := vmtest.Start(t, qemu.Machine{Firmware: qemu.UEFI, Drives: []qemu.Drive{{Path: iso, CDROM: true}}})
//	vm.WaitLogin()
//	vm.RootShell()
//	vm.Check("grep -q 'overlay / ' /proc/mounts")
//
// The serial console, ttyS0, shows what a person sees. To log in there is slow: the session takes a
// minute to start. An image with [RootShellCmdline] on its kernel command line has a root shell on the
// second port, which no message disturbs.
//
// Machines run in software emulation, so that every machine that can run the tests at all runs
// them alike: allow minutes, not seconds. Whatever a machine prints is kept in build/vmlogs, in a
// file named for the test. A machine dies with its test.
package vmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// Deadlines for software emulation on a busy machine of two cores.
const (
	BootTimeout = 10 * time.Minute // power-on to login prompt; 40 to 60 s on an idle machine
	RunTimeout  = 2 * time.Minute  // one command
)

// RootShellCmdline makes systemd (255 and later) start a root shell on the second serial port, and
// gives devices and services the time that they need on a busy machine: by default systemd gives up
// the login prompt when its port is not there after 90 seconds. Build an image with the label
// io.kairos.cmdline set to it, then use [VM.RootShell].
const RootShellCmdline = "systemd.debug_shell=ttyS1 systemd.default_device_timeout_sec=600 " +
	"systemd.default_timeout_start_sec=600"

// VM is a running machine.
type VM struct {
	*Console          // ttyS0
	shell    *Console // what Run uses: the one where a shell was started last

	t       testing.TB
	machine qemu.Machine
	process *process
}

// Start powers a machine on. Vars, QMP, Accel are set where the caller has not: variables are
// new, acceleration is off.
func Start(t testing.TB, m qemu.Machine) *VM {
	t.Helper()
	return StartWithTPM(t, m, "")
}

// StartWithTPM is [Start] for a machine with a TPM in software, which keeps its state in a folder over restarts. An
// empty folder's name: it has none.
func StartWithTPM(t testing.TB, m qemu.Machine, state string) *VM {
	t.Helper()
	vm, err := start(t, m, state)
	if err != nil {
		t.Fatalf("start a virtual machine: %v", err)
	}
	return vm
}

func start(t testing.TB, m qemu.Machine, tpm string) (*VM, error) {
	dir, err := os.MkdirTemp("", "vm") // t.TempDir's names can be too long for a socket
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if m.Vars == "" {
		m.Vars = filepath.Join(dir, "vars.fd")
	}
	if m.QMP == "" {
		m.QMP = filepath.Join(dir, "qmp")
	}
	if m.Accel == qemu.Auto {
		m.Accel = qemu.TCG
	}
	log, err := newLog(t)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { log.Close() })
	p := &process{
		restarts: !m.NoReboot && !logsWrites(m),
		events:   filepath.Join(dir, "events"),
		tpm:      tpm,
		done:     make(chan struct{}),
	}
	if (m.Arch == "" && runtime.GOARCH == "amd64" || m.Arch == "amd64") && m.Serial2 == "" {
		m.Serial2 = filepath.Join(dir, "ttyS1")
		if p.port, err = net.ListenUnix("unix", &net.UnixAddr{Name: m.Serial2}); err != nil {
			return nil, err
		}
		t.Cleanup(func() { p.port.Close() })
	}
	p.machine = m
	out, outW := io.Pipe()
	p.out = outW
	vm := &VM{Console: NewConsole(p, out, log), t: t, machine: m, process: p}
	vm.shell = vm.Console
	if err := p.run(); err != nil {
		return nil, fmt.Errorf("%w; QEMU says:\n%s", err, vm.Tail(10))
	}
	t.Cleanup(vm.PowerCut)
	return vm, nil
}

// machines numbers a test run's machines, for the names of their logs.
var machines atomic.Int64

func newLog(t testing.TB) (*os.File, error) {
	dir := filepath.Join(BuildDir(), "vmlogs")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	name := regexp.MustCompile(`[^A-Za-z0-9._-]+`).ReplaceAllString(t.Name(), "_")
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.log", name, machines.Add(1))))
	if err != nil {
		return nil, err
	}
	t.Logf("console: %s", f.Name())
	return f, nil
}

// BuildDir returns the build folder of the source tree.
func BuildDir() string {
	dir, err := os.Getwd()
	if err != nil {
		return os.TempDir()
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return filepath.Join(d, "build")
		}
		if d == filepath.Dir(d) {
			return os.TempDir()
		}
	}
}

// Expect waits for output that matches the regular expression, and returns the match and its
// groups; see [Console.Expect].
func (vm *VM) Expect(re string, within time.Duration) []string {
	vm.t.Helper()
	m, err := vm.Console.Expect(regexp.MustCompile(re), within)
	if err != nil {
		vm.t.Fatal(err)
	}
	return m
}

// Send types s.
func (vm *VM) Send(s string) {
	vm.t.Helper()
	if err := vm.Console.Send(s); err != nil {
		vm.t.Fatal(err)
	}
}

// WaitLogin waits for the login prompt.
func (vm *VM) WaitLogin() {
	vm.t.Helper()
	vm.Expect(`[A-Za-z0-9._-]+ login: `, BootTimeout)
}

// RootShell makes the root shell on the second serial port ready for Run, in an image with
// RootShellCmdline.
func (vm *VM) RootShell() {
	vm.t.Helper()
	vm.process.mu.Lock()
	second := vm.process.second
	vm.process.mu.Unlock()
	if second == nil {
		vm.t.Fatal("the machine has no second serial port")
	}
	vm.startShell(second)
}

// Login waits for the login prompt, logs in and makes the shell ready for Run. An empty password
// is not asked for.
func (vm *VM) Login(user, password string) {
	vm.t.Helper()
	vm.WaitLogin()
	vm.Send(user + "\n")
	if password != "" {
		vm.Expect("(?i)password: ", RunTimeout)
		vm.Send(password + "\n")
	}
	vm.Shell()
}

// Shell makes the shell on the console ready for Run, where no login is needed.
func (vm *VM) Shell() {
	vm.t.Helper()
	vm.startShell(vm.Console)
}

func (vm *VM) startShell(c *Console) {
	vm.t.Helper()
	if err := c.startShell(); err != nil {
		vm.t.Fatalf("%v\nconsole:\n%s", err, vm.Tail(30))
	}
	vm.shell = c
}

// Run runs a shell command in the machine and returns its output, standard error included,
// and its exit code.
func (vm *VM) Run(command string) (output string, exit int) {
	vm.t.Helper()
	return vm.RunWithin(RunTimeout, command)
}

// RunWithin is Run with another deadline.
func (vm *VM) RunWithin(within time.Duration, command string) (output string, exit int) {
	vm.t.Helper()
	output, exit, err := vm.shell.run(command, within)
	if err != nil {
		vm.t.Fatalf("%v\nconsole:\n%s", err, vm.Tail(30))
	}
	return output, exit
}

// Check runs a command that must succeed and returns its output without surrounding space.
func (vm *VM) Check(command string) string {
	vm.t.Helper()
	output, exit := vm.Run(command)
	if exit != 0 {
		vm.t.Fatalf("%s: exit code %d\n%s", command, exit, output)
	}
	return strings.TrimSpace(output)
}

// PowerCut ends the machine at once, as when its plug is pulled: what the guest had not written
// to its disks is lost.
func (vm *VM) PowerCut() {
	vm.process.kill()
}

// PowerOn starts a machine that is off, with the disks and the UEFI variables that it had. A log
// of its writes ends where the machine went off.
func (vm *VM) PowerOn() *VM {
	vm.t.Helper()
	<-vm.process.done
	m := vm.machine
	m.QMP, m.Serial2 = "", ""
	m.Drives = slices.Clone(m.Drives)
	for i := range m.Drives {
		m.Drives[i].WriteLog = ""
	}
	m.Args = withoutIncoming(m.Args)
	return StartWithTPM(vm.t, m, vm.process.tpm)
}

// WaitOff waits until the machine has switched itself off.
func (vm *VM) WaitOff(within time.Duration) {
	vm.t.Helper()
	select {
	case <-vm.process.done:
	case <-time.After(within):
		vm.t.Fatalf("machine still on after %v; the console shows:\n%s", within, vm.Tail(30))
	}
}

// Port returns the port of the host's 127.0.0.1 that reaches a port of the machine, see [qemu.Machine.Forwards]. With
// a forward of host port 0 it is another one after each restart.
func (vm *VM) Port(guest int) int {
	vm.t.Helper()
	b, err := vm.QMP("human-monitor-command", map[string]string{"command-line": "info usernet"})
	if err != nil {
		vm.t.Fatal(err)
	}
	var table string
	if err := json.Unmarshal(b, &table); err != nil {
		vm.t.Fatal(err)
	}
	for _, m := range forwarded.FindAllStringSubmatch(table, -1) {
		if host, err := strconv.Atoi(m[1]); err == nil && m[2] == strconv.Itoa(guest) {
			return host
		}
	}
	vm.t.Fatalf("no port of the host reaches the machine's port %d:\n%s", guest, table)
	return 0
}

// forwarded matches a line of "info usernet": protocol and state, file descriptor, address and port of the host, then
// of the machine.
var forwarded = regexp.MustCompile(`TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)`)

// Ejected says whether the machine has opened a drive for CDs. After a restart the medium is in it again.
func (vm *VM) Ejected() bool { return vm.process.ejected.Load() }

// Reset presses the reset button.
func (vm *VM) Reset() {
	vm.t.Helper()
	if _, err := vm.QMP("system_reset", nil); err != nil {
		vm.t.Fatal(err)
	}
}

// QMP sends a command of QEMU's machine protocol and returns its result.
func (vm *VM) QMP(command string, arguments any) (json.RawMessage, error) {
	conn, err := net.DialTimeout("unix", vm.machine.QMP, 10*time.Second)
	if err != nil {
		return nil, fmt.Errorf("qmp: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	enc, dec := json.NewEncoder(conn), json.NewDecoder(conn)
	call := func(command string, arguments any) (json.RawMessage, error) {
		req := map[string]any{"execute": command}
		if arguments != nil {
			req["arguments"] = arguments
		}
		if err := enc.Encode(req); err != nil {
			return nil, fmt.Errorf("qmp %s: %w", command, err)
		}
		for {
			var reply struct {
				Return json.RawMessage
				Error  *struct{ Desc string }
			}
			if err := dec.Decode(&reply); err != nil {
				return nil, fmt.Errorf("qmp %s: %w", command, err)
			}
			if reply.Error != nil {
				return nil, fmt.Errorf("qmp %s: %w", command, errors.New(reply.Error.Desc))
			}
			if reply.Return != nil { // else the greeting, or an event
				return reply.Return, nil
			}
		}
	}
	if _, err := call("qmp_capabilities", nil); err != nil {
		return nil, err
	}
	return call(command, arguments)
}
