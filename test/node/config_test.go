//go:build vm

package node

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	klayout "github.com/kairos-buildkit/kairos/layout"
)

// A config means the same on a disk that was written with it, and on a live medium, whatever the image's init is, and
// with a cloud-init beside it.
func TestConfigElsewhere(t *testing.T) {
	t.Parallel()
	export := func(t *testing.T, name, format, oci string) string {
		t.Helper()
		config, err := configFile(name, "")
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(workDir, name+"."+format)
		output := "type=" + format + ",dest=" + out
		if err := run(kairosBin, "export", "-o", output, "--cloud-config", config, "oci-layout:"+oci); err != nil {
			t.Fatal(err)
		}
		return out
	}
	t.Run("raw disk, OpenRC", func(t *testing.T) {
		oci, err := buildImage("openrc", "testdata/openrc", "--label",
			klayout.ImageLabelCmdline+"="+klayout.CmdlineDeadline+"=400")
		if err != nil {
			t.Fatal(err)
		}
		disk := export(t, "openrc", "raw", oci)
		m := &machine{VM: vmtest.Start(t, qemu.Machine{
			Firmware: qemu.BIOS, Drives: []qemu.Drive{{Path: disk, Snapshot: true}},
		}), t: t}
		m.up()
		m.blessed()
		m.ownersConfig()
		m.Check("until [ -e /run/runcmd-ran ] && [ -e /run/boot-ran ]; do sleep 1; done")
		m.network() // nothing has waited for it
		m.fetchedKey()
	})
	t.Run("live, cloud-init", func(t *testing.T) {
		oci := derived(t, "cloud-init", "RUN apt-get update && DEBIAN_FRONTEND=noninteractive "+
			"apt-get install --yes --no-install-recommends cloud-init "+
			"&& rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*")
		iso := export(t, "cloud-init", "iso", oci)
		m := &machine{VM: vmtest.Start(t, qemu.Machine{
			Firmware: qemu.UEFI, Drives: []qemu.Drive{{Path: iso, CDROM: true}}, Forwards: []qemu.Forward{{Guest: 22}},
		}), t: t}
		m.up()
		m.ownersConfig()
		if out, _ := m.RunWithin(vmtest.BootTimeout, "cloud-init status --wait"); !strings.Contains(
			out,
			"status: done",
		) {
			t.Errorf("cloud-init: %s\n%s", out, m.Check("cloud-init status --long || true"))
		}
		m.ownersConfig()
		m.byFetchedKey()
	})
}
