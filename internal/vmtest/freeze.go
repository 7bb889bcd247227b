package vmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// Frozen is a running machine that was stopped and kept: memory and devices, disks, UEFI
// variables. Tests that begin with the same running system thaw it instead of booting it again.
type Frozen struct {
	Machine qemu.Machine // its drives hold what the disks held in that moment
	State   string       // memory and devices, as QEMU's migration stream
}

// incoming is QEMU's option for where a machine's state comes from.
const incoming = "-incoming"

// withoutIncoming drops it: a machine that is powered on has no state to come from.
func withoutIncoming(args []string) []string {
	if i := slices.Index(args, incoming); i >= 0 {
		return slices.Delete(slices.Clone(args), i, i+2)
	}
	return args
}

// Freeze stops the machine for good, and keeps it in a folder together with its disks' files.
func (vm *VM) Freeze(dir string) Frozen {
	vm.t.Helper()
	f, err := vm.freeze(dir)
	if err != nil {
		vm.t.Fatalf("freeze the machine: %v", err)
	}
	return f
}

func (vm *VM) freeze(dir string) (Frozen, error) {
	f := Frozen{Machine: vm.machine, State: filepath.Join(dir, "state")}
	f.Machine.Drives = slices.Clone(f.Machine.Drives)
	for i := range f.Machine.Drives {
		f.Machine.Drives[i].WriteLog = ""
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return f, err
	}
	if _, err := vm.QMP("stop", nil); err != nil {
		return f, err
	}
	if _, err := vm.QMP("migrate", map[string]string{"uri": "exec:cat >" + shellQuote(f.State)}); err != nil {
		return f, err
	}
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		b, err := vm.QMP("query-migrate", nil)
		if err != nil {
			return f, err
		}
		var m struct {
			Status string `json:"status"`
			Error  string `json:"error-desc"`
		}
		if err := json.Unmarshal(b, &m); err != nil {
			return f, err
		}
		if m.Status == "completed" {
			break
		}
		if m.Status == "failed" || time.Now().After(deadline) {
			return f, fmt.Errorf("migration to a file: %s %s", m.Status, m.Error)
		}
	}
	if _, err := vm.QMP("quit", nil); err != nil { // it brings the disks' files to their last state
		return f, err
	}
	<-vm.process.done
	f.Machine.QMP, f.Machine.Serial2, f.Machine.Forwards, f.Machine.Vars = "", "", nil, ""
	if vm.machine.Firmware != qemu.BIOS {
		f.Machine.Vars = filepath.Join(dir, "vars.fd")
		if err := copyFile(vm.machine.Vars, f.Machine.Vars); err != nil {
			return f, err
		}
	}
	b, err := json.Marshal(f)
	if err != nil {
		return f, err
	}
	return f, os.WriteFile(filepath.Join(dir, "frozen.json"), b, 0o644)
}

// Thaw lets a frozen machine run on, with disks that are overlays of the frozen ones. It is as if
// no time had passed for it. Any number of machines can be thawed from one, also at once.
func Thaw(t testing.TB, f Frozen, forwards ...qemu.Forward) *VM {
	t.Helper()
	m := f.Machine
	m.Forwards = forwards
	m.Drives = slices.Clone(m.Drives)
	for i, d := range m.Drives {
		if !d.CDROM {
			m.Drives[i] = Overlay(t, d)
		}
	}
	if m.Vars != "" {
		m.Vars = filepath.Join(t.TempDir(), "vars.fd")
		if err := copyFile(f.Machine.Vars, m.Vars); err != nil {
			t.Fatalf("thaw a machine: %v", err)
		}
	}
	m.Args = append(slices.Clone(m.Args), incoming, "exec:cat "+shellQuote(f.State))
	vm := Start(t, m)
	if err := vm.goOn(2 * time.Minute); err != nil {
		t.Fatalf("thaw a machine: %v; QEMU says:\n%s", err, vm.Tail(10))
	}
	return vm
}

// goOn lets a machine run once its state has come in: until then it is stopped, as it was when it was
// frozen.
func (vm *VM) goOn(within time.Duration) error {
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		b, err := vm.QMP("query-status", nil)
		var s struct {
			Status string `json:"status"`
		}
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		if err == nil && s.Status == "paused" {
			_, err := vm.QMP("cont", nil)
			return err
		}
		if time.Now().After(deadline) {
			return errors.Join(err, fmt.Errorf("the machine is in state %q", s.Status))
		}
	}
}

// Kept returns the machine that an earlier run froze in a folder.
func Kept(dir string) (f Frozen, ok bool) {
	b, err := os.ReadFile(filepath.Join(dir, "frozen.json"))
	return f, err == nil && json.Unmarshal(b, &f) == nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

// shellQuote writes a path for the shell that QEMU's exec: starts.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
