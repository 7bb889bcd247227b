package qemu

import (
	"context"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// Accel is how the machine's instructions are carried out.
type Accel string

const (
	Auto Accel = ""    // KVM where it works, else TCG
	KVM  Accel = "kvm" // the processor's own virtualization
	TCG  Accel = "tcg" // software; works everywhere, 10 to 30 times slower
	// Counted is TCG with a clock that counts instructions, two nanoseconds each: how long a machine takes, by its
	// own clock, hardly depends on what else its host does. It takes twice as long to wait for.
	Counted Accel = "counted"
)

// option is the accelerator for -accel. In software, less room for translated code than QEMU's eighth of
// the memory lets a machine that restarts forget what it ran before sooner: each write to a page
// that holds old code costs. A restart of examples/debian takes a tenth less with 256 MiB, not with less.
func (a Accel) option() string {
	switch a {
	case TCG:
		return "tcg,thread=multi,tb-size=256"
	case Counted:
		return "tcg,thread=single,tb-size=256"
	}
	return string(a)
}

// cpus is how many processors a machine has unless it says otherwise. In software each is
// a thread of the host, and one that runs code while another patches it may see the patch
// half done: now and then a Linux 6.12 with two dies early of "Oops: int3" in
// sched_clock_cpu, under QEMU 7.2.
func (a Accel) cpus() int {
	if a == KVM {
		return 2
	}
	return 1
}

// cpu is the processor model for this accelerator. Linux 6.12 dies of double faults at
// random under QEMU 7.2's multi-threaded TCG when the processor offers cmpxchg16b. With erms it
// clears pages byte by byte, which is slow where they held code before.
func (a Accel) cpu(arch string) string {
	switch {
	case a == KVM:
		return "host"
	case arch == "amd64":
		return "max,-cx16,-erms"
	}
	return "max"
}

// detect starts QEMU with KVM, a machine that does not run, and sees whether that works: an
// openable /dev/kvm says little inside containers and nested machines.
func detect(ctx context.Context, program, arch string) Accel {
	if arch != runtime.GOARCH || !readable("/dev/kvm") {
		return TCG
	}
	machine := "q35"
	if arch == "arm64" {
		machine = "virt"
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", machine, "-accel", "kvm", "-cpu", "host", "-m", "64", "-S", "-qmp", "stdio")
	cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}{"execute":"quit"}`)
	if cmd.Run() != nil {
		return TCG
	}
	return KVM
}
