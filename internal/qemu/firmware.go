package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// firmware is one distribution's UEFI build: code, and a template of the variables.
type firmware struct{ code, vars string }

// Without Secure Boot: the images are not signed by Microsoft's keys.
var firmwares = map[string][]firmware{
	"amd64": {
		{
			"/usr/share/OVMF/OVMF_CODE_4M.fd",
			"/usr/share/OVMF/OVMF_VARS_4M.fd",
		}, // Debian, Ubuntu
		{
			"/usr/share/OVMF/OVMF_CODE.fd",
			"/usr/share/OVMF/OVMF_VARS.fd",
		}, // older Debian
		{
			"/usr/share/edk2/ovmf/OVMF_CODE.fd",
			"/usr/share/edk2/ovmf/OVMF_VARS.fd",
		}, // Fedora
		{
			"/usr/share/edk2/x64/OVMF_CODE.4m.fd",
			"/usr/share/edk2/x64/OVMF_VARS.4m.fd",
		}, // Arch
		{
			"/usr/share/qemu/ovmf-x86_64-4m-code.bin",
			"/usr/share/qemu/ovmf-x86_64-4m-vars.bin",
		}, // openSUSE
		{
			"/usr/share/qemu/edk2-x86_64-code.fd",
			"/usr/share/qemu/edk2-i386-vars.fd",
		}, // QEMU's own
		{
			"/run/current-system/sw/share/qemu/edk2-x86_64-code.fd",
			"/run/current-system/sw/share/qemu/edk2-i386-vars.fd",
		}, // NixOS
	},
	"arm64": {
		{
			"/usr/share/AAVMF/AAVMF_CODE.fd",
			"/usr/share/AAVMF/AAVMF_VARS.fd",
		}, // Debian, Ubuntu
		{"/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"}, // Fedora
		{"/usr/share/edk2/aarch64/QEMU_CODE.fd", "/usr/share/edk2/aarch64/QEMU_VARS.fd"},                    // Arch
		{
			"/usr/share/qemu/edk2-aarch64-code.fd",
			"/usr/share/qemu/edk2-arm-vars.fd",
		}, // QEMU's own
	},
}

// With Secure Boot, and variables without keys: in setup mode.
var secureFirmwares = []firmware{
	{"/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},         // Debian, Ubuntu
	{"/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},     // Fedora
	{"/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"}, // Arch
	{"/usr/share/qemu/edk2-x86_64-secure-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"},    // QEMU's own
	{"/run/current-system/sw/share/qemu/edk2-x86_64-secure-code.fd",
		"/run/current-system/sw/share/qemu/edk2-i386-vars.fd"}, // NixOS
}

func (m Machine) firmwareArgs() ([]string, error) {
	if m.SecureBoot && (m.Arch != "amd64" || m.Firmware != UEFI) {
		return nil, errors.New("virtual machine: Secure Boot is for UEFI on amd64")
	}
	switch m.Firmware {
	case BIOS:
		if m.Arch != "amd64" {
			return nil, fmt.Errorf("virtual machine: no BIOS on %s: use UEFI", m.Arch)
		}
		return nil, nil // QEMU's default
	case UEFI:
	default:
		return nil, fmt.Errorf("virtual machine: unknown firmware %q: want uefi or bios", m.Firmware)
	}
	if m.Vars == "" {
		return nil, errors.New("virtual machine: no file for the UEFI variables")
	}
	list := firmwares[m.Arch]
	if m.SecureBoot {
		list = secureFirmwares
	}
	fw, err := findFirmware(list, m.Arch)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(m.Vars); errors.Is(err, fs.ErrNotExist) {
		template, err := os.ReadFile(fw.vars)
		if err != nil {
			return nil, fmt.Errorf("UEFI variables: %w", err)
		}
		if template, err = addVariables(template, m.Variables); err != nil {
			return nil, fmt.Errorf("UEFI variables: %s: %w", fw.vars, err)
		}
		if err := os.WriteFile(m.Vars, template, 0o600); err != nil {
			return nil, fmt.Errorf("UEFI variables: %w", err)
		}
	}
	var args []string
	if m.SecureBoot {
		// Only the firmware, in system management mode, writes to its variables.
		args = []string{"-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"}
	}
	return append(args,
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+escape(fw.code),
		"-drive", "if=pflash,format=raw,unit=1,file="+escape(m.Vars),
	), nil
}

func findFirmware(list []firmware, arch string) (firmware, error) {
	var tried []string
	for _, fw := range list {
		if readable(fw.code) && readable(fw.vars) {
			return fw, nil
		}
		tried = append(tried, fw.code)
	}
	pkg := "ovmf"
	if arch == "arm64" {
		pkg = "qemu-efi-aarch64"
	}
	return firmware{}, fmt.Errorf(
		"UEFI firmware for %s not found: install it (Debian and Ubuntu: apt-get install %s); looked for %s",
		arch,
		pkg,
		strings.Join(tried, ", "),
	)
}
