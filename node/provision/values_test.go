package provision

import (
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// Templates know the machine by the names that they have in the Kairos project.
func TestTemplateValues(t *testing.T) {
	s, _ := newSystem(t, layout.RoleSystem, map[string]string{
		"sys/class/dmi/id/sys_vendor": "ACME\n", "sys/class/dmi/id/product_uuid": "11-22\n",
		"sys/class/dmi/id/product_serial": "a b&c\n", "sys/class/dmi/id/chassis_asset_tag": "tag\n",
		"sys/block/sda/size": "3906250\n", "sys/block/sda/device/model": "Disk\n", "sys/block/loop0/size": "8\n",
		"proc/meminfo": "MemTotal:        2048 kB\nMemFree: 1 kB\n",
		"proc/cpuinfo": "vendor_id\t: V\nmodel name\t: M 1\nphysical id\t: 0\ncore id\t\t: 0\n\n" +
			"model name\t: M 2\nphysical id\t: 0\ncore id\t\t: 1\n\nphysical id\t: 1\ncore id\t\t: 0\n",
		"etc/os-release":     "ID=debian\nVERSION_ID=\"13\"\nPRETTY_NAME=\"A \\\"quoted\\\" name\"\n",
		"usr/lib/os-release": "ID=vendor\nVERSION_ID=12\n", "etc/timezone": "Etc/UTC\n",
	})
	for text, want := range map[string]string{
		"{{ trunc 4 .MachineID }}": "0123", "{{ .Values.node.machineid }}": "0123456789abcdef0123456789abcdef",
		"{{ .Values.product.vendor }} {{ .Values.product.uuid }}":                            "ACME 11-22",
		"{{ .Values.product.serial }} {{ .Values.chassis.assettag }}":                        "a b&c tag",
		"{{ .Values.os.vendor }}-{{ .Values.os.version }}":                                   "debian-13",
		"{{ .Values.os.name }}":                                                              `A "quoted" name`,
		"{{ .Values.memory.size }} {{ len .Values.storage }}":                                "2 1",
		"{{ with index .Values.storage 0 }}{{ .name }} {{ .model }} {{ .size }}{{ end }}":    "sda Disk 2",
		"{{ with .Values.cpu }}{{ .vendor }} {{ .model }} {{ .cpus }} {{ .cores }}{{ end }}": "V M 1 2 3",
		"{{ len .Values.Random }} {{ len .Random }} {{ len .Values.ProtectedID }}":           "32 32 64",
		"{{ required `no` .Values.node.timezone | lower }}":                                  "etc/utc",
		"{{ .Values.board.name }}":                                                           "",
	} {
		if got, err := s.templated(text); err != nil || got != want {
			t.Errorf("%s: %q, want %q (%v)", text, got, want, err)
		}
	}
	if got, err := s.templated("{{ required `no uuid` .Values.board.name }}"); err == nil ||
		!strings.Contains(err.Error(), "no uuid") {
		t.Errorf("%q, %v", got, err)
	}
	// An address is whole, whatever the machine's numbers are.
	const address = "https://example.org/?s={{ .Values.product.serial }}&u={{.Values.product.uuid}}"
	if got, err := s.Address(address); err != nil || got != "https://example.org/?s=a+b%26c&u=11-22" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := s.Address("https://example.org/{{ .Values.product.nothing }}"); err == nil {
		t.Errorf("%q", got)
	}
	if got, err := s.Address("https://example.org/%7B"); err != nil || got != "https://example.org/%7B" {
		t.Errorf("%q, %v", got, err)
	}
}
