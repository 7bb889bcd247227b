package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
)

// Shipped checks are turned on by an image's labels and by the node's config, which says more and does not take away.
func TestShippedChecksAreTurnedOn(t *testing.T) {
	const route = "eth0 00000000 0202000A 0003 0 0 0 00000000 0 0 0\n"
	for name, c := range map[string]struct {
		labels map[string]string
		config string
		says   string // "": healthy
		checks int
	}{
		"none":   {nil, "", "", 0},
		"label":  {map[string]string{layout.ImageLabelHealth: "network"}, "", "", 1},
		"config": {nil, "health: {checks: [network]}", "", 1},
		"both": {map[string]string{layout.ImageLabelHealth: "units"}, "health: {checks: [network]}",
			"check units: ", 1},
		"a wrong label": {map[string]string{layout.ImageLabelHealth: "disk"}, "", `there is no check "disk"`, 0},
		"no soak time":  {map[string]string{layout.ImageLabelSoak: "soon"}, "", `soak time "soon"`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a, _, _ := threeImages(t)
			disk := t.TempDir()
			m := install(t, disk, "uefi", t.TempDir(), a)
			// The booted store, as the running system has it.
			r, err := m.State.Release(a.id)
			if err != nil {
				t.Fatal(err)
			}
			r.Labels = c.labels
			b, err := r.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			for name, text := range map[string]string{
				filepath.Join(m.bootedStore(), layout.ReleasePath(a.id)): string(b),
				m.path("proc/net/route"):                                 route,
				m.path(filepath.Join(layout.MountOEM, "90_custom.yaml")): c.config,
			} {
				if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := bless(t.Context(), m)
			if c.says == "" && (err != nil || got.Outcome == api.OutcomeUnhealthy) ||
				c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) || len(got.Checks) != c.checks {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
