package provision

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
)

// Units are for an image whose process 1 is systemd, not for one that merely has it installed.
func TestUnitsAreForSystemdAlone(t *testing.T) {
	c := config.Merge(config.Parse("a.yaml", []byte("#cloud-config\nstages: {boot: [{commands: ['true']}]}\n")))
	for name, tc := range map[string]struct {
		init string // a link, or a program of its own
		want bool
	}{
		"none":     {"", true},
		"systemd":  {"/lib/systemd/systemd", true},
		"relative": {"../usr/lib/systemd/systemd", true},
		"sysvinit": {"program", false},
	} {
		s, dir := newSystem(t, layout.RoleSystem, map[string]string{"lib/systemd/systemd": ""})
		init := filepath.Join(dir, "sbin/init")
		switch tc.init {
		case "":
		case "program":
			put(t, init, "")
		default:
			if err := os.MkdirAll(filepath.Dir(init), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(tc.init, init); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.announce(c); err != nil {
			t.Fatal(err)
		}
		_, err := os.Stat(filepath.Join(dir, "run/systemd"))
		if got := err == nil; got != tc.want {
			t.Errorf("%s: units: %v, want %v", name, got, tc.want)
		}
	}
}
