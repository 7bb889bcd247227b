package medium

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kairos-buildkit/kairos/internal/initramfs/efi"
	"github.com/kairos-buildkit/kairos/layout"
)

const (
	idA = "0123456789ab"
	idB = "ba9876543210"
)

func TestOrigin(t *testing.T) {
	const esp = "11111111-2222-3333-4444-55555555555F"
	entry := `\EFI\Linux\kairos-00000007-` + idA + `+2-1.efi`
	for name, c := range map[string]struct {
		cmdline   string
		variables map[string]string
		want      origin
	}{
		"live by UEFI": {"quiet", map[string]string{efi.StubImage: `\EFI\BOOT\BOOTX64.EFI`, efi.LoaderPart: esp},
			origin{boot: layout.Boot{Role: layout.RoleLive, Firmware: "uefi"}}},
		"live without variables": {"quiet", nil, origin{boot: layout.Boot{Role: layout.RoleLive, Firmware: "uefi"}}},
		"live by GRUB": {"kairos.live kairos.release=" + idA,
			map[string]string{efi.StubImage: entry, efi.LoaderPart: esp},
			origin{boot: layout.Boot{Role: layout.RoleLive, Firmware: "uefi", Release: idA}}},
		"on trial": {"", map[string]string{efi.StubImage: entry, efi.LoaderPart: esp},
			origin{
				esp: strings.ToLower(esp),
				boot: layout.Boot{
					Role:     layout.RoleSystem,
					Firmware: "uefi",
					Release:  idA,
					Trial:    true,
					Entry:    entry[11:],
				},
			}},
		"recovery on trial": {"",
			map[string]string{efi.StubImage: `\EFI\Linux\kairos-00000000-` + idA + `+0-1.efi`, efi.LoaderPart: esp},
			origin{
				esp: strings.ToLower(esp),
				boot: layout.Boot{
					Role:     layout.RoleRecovery,
					Firmware: "uefi",
					Release:  idA,
					Trial:    true,
					Entry:    "kairos-00000000-" + idA + "+0-1.efi",
				},
			}},
		"recovery that came up": {"",
			map[string]string{efi.StubImage: `\EFI\Linux\kairos-00000000-` + idA + `+8-1.efi`, efi.LoaderPart: esp},
			origin{
				esp: strings.ToLower(esp),
				boot: layout.Boot{
					Role:     layout.RoleRecovery,
					Firmware: "uefi",
					Release:  idA,
					Entry:    "kairos-00000000-" + idA + "+8-1.efi",
				},
			}},
		"blessed, without a loader": {"",
			map[string]string{efi.StubImage: "kairos-00000007-" + idA + ".efi", efi.StubPart: esp},
			origin{
				esp: strings.ToLower(esp),
				boot: layout.Boot{
					Role:     layout.RoleSystem,
					Firmware: "uefi",
					Release:  idA,
					Entry:    "kairos-00000007-" + idA + ".efi",
				},
			}},
		"blessed, eight tries used": {"",
			map[string]string{efi.StubImage: "kairos-00000007-" + idA + "+1-8.efi", efi.StubPart: esp},
			origin{
				esp: strings.ToLower(esp),
				boot: layout.Boot{
					Role:     layout.RoleSystem,
					Firmware: "uefi",
					Release:  idA,
					Entry:    "kairos-00000007-" + idA + "+1-8.efi",
				},
			}},
		"recovery": {"",
			map[string]string{efi.StubImage: `\EFI\Linux\kairos-00000000-` + idB + `.efi`, efi.LoaderPart: esp},
			origin{
				esp: strings.ToLower(esp),
				boot: layout.Boot{
					Role:     layout.RoleRecovery,
					Firmware: "uefi",
					Release:  idB,
					Entry:    "kairos-00000000-" + idB + ".efi",
				},
			}},
		"GRUB": {"kairos.release=" + idA + " kairos.esp=" + esp, nil,
			origin{
				esp:  strings.ToLower(esp),
				boot: layout.Boot{Role: layout.RoleSystem, Firmware: "uefi", Release: idA},
			}},
		"GRUB on trial": {"kairos.release=" + idA + " kairos.esp=" + esp + " kairos.tries=0", nil,
			origin{
				esp:  strings.ToLower(esp),
				boot: layout.Boot{Role: layout.RoleSystem, Firmware: "uefi", Release: idA, Trial: true},
			}},
		"GRUB's recovery": {"kairos.release=" + idA + " kairos.esp=" + esp + " kairos.role=recovery", nil,
			origin{
				esp:  strings.ToLower(esp),
				boot: layout.Boot{Role: layout.RoleRecovery, Firmware: "uefi", Release: idA},
			}},
	} {
		got, err := parseOrigin(
			layout.ParseCmdline(c.cmdline),
			"uefi",
			func(v string) (string, error) { return c.variables[v], nil },
		)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(c.want, got, cmp.AllowUnexported(origin{})); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	_, err := parseOrigin(nil, "uefi", func(v string) (string, error) {
		return map[string]string{efi.StubImage: entry}[v], nil
	})
	if err == nil {
		t.Error("an installed system without its partition was accepted")
	}
}

// A machine whose variables cannot be read is not taken for one that runs from a live medium.
func TestOriginWithoutVariables(t *testing.T) {
	unreadable := func(string) (string, error) { return "", errors.New("no runtime services") }
	if o, err := parseOrigin(layout.ParseCmdline("quiet"), "uefi", unreadable); err == nil ||
		!strings.Contains(err.Error(), "efi=runtime") {
		t.Errorf("taken for %q: %v", o.boot.Role, err)
	}
	for cmdline, role := range map[string]string{
		"kairos.live": layout.RoleLive,
		"kairos.release=" + idA + " kairos.esp=11111111-2222-3333-4444-555555555555": layout.RoleSystem,
	} {
		o, err := parseOrigin(layout.ParseCmdline(cmdline), "uefi", unreadable)
		if err != nil || o.boot.Role != role {
			t.Errorf("%s: %q, %v", cmdline, o.boot.Role, err)
		}
	}
	// What can be read in part is not read.
	part := func(v string) (string, error) {
		if v == efi.StubImage {
			return "kairos-00000007-" + idA + ".efi", nil
		}
		return "", errors.New("input/output error")
	}
	if _, err := parseOrigin(nil, "uefi", part); err == nil {
		t.Error("a partition that cannot be read was passed over")
	}
}
