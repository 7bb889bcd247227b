package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// StartTPM starts swtpm, a TPM 2.0 in software, with its state in a folder, and returns what a [Machine] needs of
// it and a function that waits for its end: it ends with the machine, with ctx, and with the thread that starts it,
// as [Machine.Command] says. The caller closes the file when the machine has started.
func StartTPM(ctx context.Context, dir string) (machine *os.File, wait func() error, err error) {
	program, err := exec.LookPath("swtpm")
	if err != nil {
		return nil, nil, fmt.Errorf(
			"a TPM in software: %w: install it (Debian and Ubuntu: apt-get install swtpm)", err)
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("a TPM in software: %w", err)
	}
	machine, tpm := os.NewFile(uintptr(pair[0]), "TPM"), os.NewFile(uintptr(pair[1]), "swtpm")
	defer tpm.Close()
	cmd := exec.CommandContext(ctx, program, "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--ctrl", "type=unixio,clientfd=3", "--terminate")
	cmd.ExtraFiles = []*os.File{tpm}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		machine.Close()
		return nil, nil, fmt.Errorf("a TPM in software: %w", err)
	}
	return machine, cmd.Wait, nil
}
