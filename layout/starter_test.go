package layout

import "testing"

func TestStarting(t *testing.T) {
	for _, c := range []struct {
		have Starting
		want Starter
	}{
		{Starting{Init: "systemd", Unit: true}, BySystemd},
		{Starting{Init: "systemd", Line: true, Runlevel: true}, ByGuard}, // not built by our frontend
		{Starting{Init: "busybox", Runlevel: true, Line: true, Unit: true}, ByOpenRC},
		{Starting{Init: "openrc-init", Runlevel: true}, ByOpenRC},
		{Starting{Init: "busybox", Line: true}, ByBusyBox},
		{Starting{Init: "busybox"}, ByGuard},
		{Starting{Init: "init", Line: true, Unit: true}, BySysV},
		{Starting{Init: "sysvinit", Line: true}, BySysV},
		{Starting{Init: "init", Unit: true}, ByGuard},
		{Starting{Init: "runit-init", Line: true, Unit: true}, ByGuard},
		{Starting{Init: "s6-svscan", Unit: true}, ByGuard},
		{Starting{}, ByGuard},
	} {
		if got := c.have.Starter(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.have, got, c.want)
		}
	}
}
