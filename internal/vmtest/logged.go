package vmtest

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest/writelog"
)

// Logged returns a frozen machine like f that writes a log of what it does to its first disk, when
// it is thawed.
func (f Frozen) Logged(t testing.TB, log string) Frozen {
	t.Helper()
	f.Machine.Drives = slices.Clone(f.Machine.Drives)
	for i := range f.Machine.Drives {
		if d := &f.Machine.Drives[i]; !d.CDROM {
			*d = WriteLog(t, *d, log)
			return f
		}
	}
	t.Fatal("log writes: the machine has no disk")
	return f
}

// WriteLog returns the drive with a log of its writes in a file; see package writelog.
func WriteLog(t testing.TB, d qemu.Drive, log string) qemu.Drive {
	t.Helper()
	if err := os.WriteFile(log, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d.WriteLog = log
	return d
}

// Written returns the number of operations in the log of the machine's writes up to now. It brings what
// the machine has written so far to the disk: it is a moment between two commands.
func (vm *VM) Written() int {
	vm.t.Helper()
	n, err := vm.written()
	if err != nil {
		vm.t.Fatalf("position in the log of writes: %v", err)
	}
	return n
}

func (vm *VM) written() (n int, err error) {
	i := slices.IndexFunc(vm.machine.Drives, func(d qemu.Drive) bool { return d.WriteLog != "" })
	if i < 0 {
		return 0, errors.New("no drive has one")
	}
	// Stopping waits for what is on its way and flushes the disks, so that the log's count is right.
	if _, err := vm.QMP("stop", nil); err != nil {
		return 0, err
	}
	defer func() {
		_, e := vm.QMP("cont", nil)
		err = errors.Join(err, e)
	}()
	f, err := os.Open(vm.machine.Drives[i].WriteLog)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() == 0 {
		return 0, err // nothing was written, so nothing had to be flushed
	}
	return writelog.Entries(f)
}
