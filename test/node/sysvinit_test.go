//go:build vm

package node

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	klayout "github.com/kairos-buildkit/kairos/layout"
)

// Without systemd a script starts the node agent: it installs, blesses, and gives up a release
// that is not healthy.
func TestSysvinit(t *testing.T) {
	t.Parallel()
	oci, err := buildImage(
		"sysvinit",
		"testdata/sysvinit",
		"--label",
		klayout.ImageLabelCmdline+"="+klayout.CmdlineDeadline+"=400",
	)
	if err != nil {
		t.Fatal(err)
	}
	iso, err := makeMedium("sysvinit", oci)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{VM: install(t, qemu.BIOS, iso, filepath.Join(workDir, "installed-sysvinit")), t: t}
	if name := m.Check("cat /proc/1/comm"); name != "init" {
		t.Fatalf("process 1 is %s", name)
	}
	first := m.status().Booted
	if !first.Blessed {
		t.Fatalf("not blessed: %s", show(m.status()))
	}

	m.ownersConfig()
	m.Check("until [ -e /run/runcmd-ran ] && [ -e /run/boot-ran ]; do sleep 1; done")
	m.network() // nothing has waited for it
	m.fetchedKey()

	t.Run("unhealthy", func(t *testing.T) {
		if !everything {
			t.Skip("part of `make test-all`")
		}
		reg := startRegistry(t)
		reg.push(t, derivedFrom(t, oci, "sysvinit-broken", check("echo the disk is missing; exit 3")), "broken")
		m.apply("upgrade " + reg.ref(m, "broken"))
		m.Check("(sleep 1; reboot) >/dev/null 2>&1 &")
		m.fellBack(first.Release)
		s := m.status()
		if s.Booted.Release != first.Release || len(s.Failed) != 1 || s.Failed[0].Failure == nil ||
			!strings.Contains(s.Failed[0].Failure.Reason, "health check 10-test") {
			t.Errorf("status %s", show(s))
		}
	})
}
