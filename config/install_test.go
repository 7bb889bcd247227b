package config

import (
	"maps"
	"reflect"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

func TestBlocksOfCommands(t *testing.T) {
	parse := func(text string) *Config {
		c := Merge(Parse("c.yaml", []byte(text)))
		if err := c.Report().Err(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for text, want := range map[string]Upgrade{
		"":                                       {},
		"upgrade: {source: oci:a, reboot: true}": {Source: "oci:a", RecoverySource: "oci:a", Reboot: true},
		"upgrade: {recovery: yes, poweroff: on, system.uri: x}":     {Source: "x", Recovery: true, PowerOff: true},
		"upgrade: {source: a, recovery-system: {source: r}}":        {Source: "a", RecoverySource: "r"},
		"upgrade: {system: {source: s}, recovery-system.source: r}": {Source: "s", RecoverySource: "r"},
	} {
		if got := parse(text).Upgrade(); got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	reset := parse("reset: {auto: on, reboot: 'yes', reset-oem: true}").Reset()
	if want := (Reset{Auto: true, Reboot: true, OEM: true}); reset != want {
		t.Errorf("reset: %+v", reset)
	}
	got := parse("logs: {journal: [a], files: [/var/log/a*]}").Logs()
	if want := (Logs{[]string{"a"}, []string{"/var/log/a*"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("logs: %+v", got)
	}
	labels := map[string]string{layout.ImageLabelCmdline: "quiet"}
	i := parse("debug: true\ninstall: {grub_options: {extra_cmdline: a=b}}").Install()
	want := map[string]string{layout.ImageLabelCmdline: "quiet a=b kairos.debug"}
	if got := i.Labels(labels); !maps.Equal(got, want) {
		t.Errorf("debug: %v", got)
	}
	for _, block := range []string{"install", "reset", "upgrade"} {
		if Merge(Parse("c.yaml", []byte(block+": {reboot: true, poweroff: true}"))).Report().Err() == nil {
			t.Errorf("%s: reboot and poweroff", block)
		}
	}
}
