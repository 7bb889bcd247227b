package main

import (
	"fmt"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
)

func TestStatusValue(t *testing.T) {
	a, b := &api.Slot{Release: "a", Version: "v1"}, &api.Slot{Release: "b", Version: "v2"}
	s := api.Status{Mode: api.ModeInstalled, Booted: a, Active: a, Passive: b, Failed: []api.Slot{*b}}
	for key, want := range map[string]string{
		"mode": "installed", "booted.release": "a", "failed[0].version": "v2", "boot": "active_boot",
		"kairos.version": "v1", "uuid": "1234", "booted.blessed": "false",
	} {
		if v, err := statusValue(s, "1234", key); err != nil || fmt.Sprint(v) != want {
			t.Errorf("%s: %v, %v, want %s", key, v, err, want)
		}
	}
	for _, key := range []string{"", "recovery.release", "failed[1]", "failed[x]", "mode.x", "booted..release"} {
		if v, err := statusValue(s, "", key); err == nil {
			t.Errorf("%s: %v", key, v)
		}
	}
	s.Booted = b
	for _, tc := range []struct {
		s    api.Status
		want string
	}{
		{s, "passive_boot"}, {api.Status{Mode: api.ModeLive}, "livecd_boot"},
		{api.Status{Mode: api.ModeRecovery}, "recovery_boot"}, {api.Status{Mode: api.ModeNone}, "unknown"},
	} {
		if got := bootWord(tc.s); got != tc.want {
			t.Errorf("%s, want %s", got, tc.want)
		}
	}
}
