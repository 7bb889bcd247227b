package qemu

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// QEMU takes the arguments of every kind of machine: it starts them, without running them.
func TestCommand(t *testing.T) {
	dir, err := os.MkdirTemp("", "qemu") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	image := filepath.Join(dir, "image, with a comma")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o666); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log, of writes")
	if err := os.WriteFile(log, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	disk := func(b Bus) Drive { return Drive{Path: image, Bus: b, Snapshot: true} }
	cd := func(b Bus) Drive { return Drive{Path: image, Bus: b, CDROM: true} }
	for i, m := range []Machine{
		{Drives: []Drive{cd(""), disk("")}},
		{Firmware: BIOS, Drives: []Drive{cd(""), disk(AHCI)}},
		{Drives: []Drive{disk(Virtio), disk(AHCI), disk(USB), disk(NVMe), disk(SCSI)}, NoNet: true, NoVGA: true,
			NoReboot: true},
		{Drives: []Drive{cd(Virtio), cd(USB), cd(SCSI), cd(AHCI)}, Monitor: true},
		{Drives: []Drive{{Path: image, Snapshot: true, Cache: "unsafe", Serial: "disk,1"}},
			Forwards: []Forward{{Host: 0, Guest: 22}}},
		{Drives: []Drive{{Path: image, WriteLog: log, Serial: "logged"}}},
		{SecureBoot: true, Variables: []Variable{{Name: "PK", Data: []byte("key")}}, Drives: []Drive{disk("")}},
		{SecureBoot: true, TPM: new(os.File), Drives: []Drive{disk("")}},
		{Arch: "arm64", Drives: []Drive{cd(""), disk(""), disk(USB), disk(NVMe)}},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			m.Accel, m.Memory = TCG, 128
			m.Vars, m.QMP = filepath.Join(dir, fmt.Sprint("vars", i)), filepath.Join(dir, fmt.Sprint("qmp", i))
			m.Args = []string{"-S"}
			if m.TPM != nil {
				tpm, wait, err := StartTPM(t.Context(), dir)
				if err != nil {
					t.Fatal(err)
				}
				defer wait()
				defer tpm.Close()
				m.TPM = tpm
			}
			cmd, err := m.Command(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			ended := make(chan struct{})
			go quit(m.QMP, ended)
			err = <-done
			close(ended)
			if err != nil {
				t.Errorf("%v: %s", err, out.String())
			}
		})
	}
}

// quit ends a QEMU as soon as it answers, unless it ends by itself.
func quit(socket string, ended <-chan struct{}) {
	for {
		if conn, err := net.Dial("unix", socket); err == nil {
			fmt.Fprint(conn, `{"execute":"qmp_capabilities"}{"execute":"quit"}`)
			buf := make([]byte, 4096)
			for err == nil {
				_, err = conn.Read(buf)
			}
			return
		}
		select {
		case <-ended:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// In software a machine has one processor, unless it wants more.
func TestProcessors(t *testing.T) {
	for _, tc := range []struct {
		m    Machine
		want string
	}{
		{Machine{Accel: TCG}, "1"},
		{Machine{Accel: TCG, CPUs: 4}, "4"},
		{Machine{Accel: Counted}, "1"}, // whose instructions are counted
		{Machine{Accel: KVM}, "2"},
	} {
		tc.m.Firmware = BIOS
		cmd, err := tc.m.Command(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := cmd.Args[slices.Index(cmd.Args, "-smp")+1]; got != tc.want {
			t.Errorf("%+v: %s processors, want %s", tc.m, got, tc.want)
		}
	}
}

func TestCommandRejects(t *testing.T) {
	for _, tc := range []struct {
		m    Machine
		want string
	}{
		{Machine{Arch: "vax"}, "unknown architecture"},
		{Machine{Arch: "arm64", Firmware: BIOS}, "use UEFI"},
		{Machine{Arch: "amd64", Firmware: "coreboot"}, "want uefi or bios"},
		{Machine{Arch: "amd64"}, "UEFI variables"},
		{Machine{Arch: "amd64", Firmware: BIOS, Drives: []Drive{{Path: "x", CDROM: true, Bus: NVMe}}},
			"no nvme drive"},
		{Machine{Arch: "arm64", SecureBoot: true}, "Secure Boot is for UEFI on amd64"},
		{Machine{Arch: "amd64", SecureBoot: true, Firmware: BIOS}, "Secure Boot is for UEFI on amd64"},
		{Machine{Arch: "arm64", TPM: os.Stdin}, "a TPM is for amd64"},
		{Machine{Arch: "arm64", Vars: filepath.Join(t.TempDir(), "v"), Drives: []Drive{{Path: "x", Bus: AHCI}}},
			"no ahci drive"},
	} {
		_, err := tc.m.withDefaults().args()
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: got %v, want %q", tc.m, err, tc.want)
		}
	}
}

// Variables come behind those that a file has, and as many as it has room for.
func TestAddVariables(t *testing.T) {
	for _, name := range []string{"/usr/share/OVMF/OVMF_VARS_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"} {
		template, err := os.ReadFile(name)
		if err != nil {
			t.Fatalf("%v (package ovmf)", err)
		}
		one := Variable{Name: "one", Vendor: [16]byte{1}, Attributes: 7, Time: [16]byte{2}, Data: []byte("three")}
		file, err := addVariables(template, []Variable{one, one})
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(file, one.marshal()); n != 2 || len(file) != len(template) {
			t.Errorf("%s: %d variables in %d bytes", name, n, len(file))
		}
		again, err := addVariables(file, []Variable{one})
		if err != nil || bytes.Count(again, one.marshal()) != 3 {
			t.Errorf("%s: those that are there are lost, %v", name, err)
		}
		for what, c := range map[string]struct {
			file []byte
			v    Variable
			want string
		}{
			"large": {template, Variable{Name: "large", Data: make([]byte, 1<<20)}, "no room"},
			"cut":   {template[:4096], one, "cut"},
			"empty": {nil, one, "no firmware volume"},
			"text":  {bytes.Repeat([]byte("text"), 1000), one, "no firmware volume"},
		} {
			if _, err := addVariables(c.file, []Variable{c.v}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
}
