//go:build vm

package node

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// TestPowerCut pulls the plug while an upgrade runs. The steps themselves, and all that a disk may hold
// at each of them, are judged in package node; this shows on a sample that machines boot from such disks.
// KAIROS_TEST_POWER=all takes many moments of the upgrade instead of one.
func TestPowerCut(t *testing.T) {
	samples := 1
	if os.Getenv("KAIROS_TEST_POWER") == "all" {
		samples = 60
	}
	img := derived(t, "power", "RUN head -c 3000000 /dev/urandom > /usr/share/payload")
	bothFirmwares(t, func(t *testing.T, firmware qemu.Firmware) {
		reg := startRegistry(t)
		reg.push(t, img, "power")

		// A whole upgrade, for its duration.
		m := start(t, firmware)
		first := m.status().Booted.Release
		began := time.Now()
		m.apply("upgrade " + reg.ref(m, "power"))
		took := time.Since(began)
		second := m.status().Active.Release
		m.PowerCut()

		for i := range samples {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				m := start(t, firmware)
				ref := reg.ref(m, "power")
				m.Check("systemd-run --no-block kairos-apply upgrade " + ref + " 2>&1")
				// The last sample is cut just after the end.
				time.Sleep(took * time.Duration(i+1) / time.Duration(samples))
				m.PowerCut()

				m.VM = m.PowerOn()
				m.up()
				m.blessed()
				s := m.status()
				if b := s.Booted; b == nil || b.Release != first && b.Release != second || b.Problem != "" || len(s.Failed) != 0 {
					t.Fatalf("after the power cut: %s", show(s))
				}
				m.apply("upgrade " + reg.ref(m, "power"))
				if s = m.status(); s.Active.Release != second || s.Active.Problem != "" {
					t.Errorf("after the same upgrade: %s", show(s))
				}
			})
		}
	})
}
