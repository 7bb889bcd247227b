package node

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// A CD that was installed from leaves its drive at the end; a stick, a disk and an installed system do not.
func TestMediumIsEjectedAtTheEnd(t *testing.T) {
	for medium, want := range map[string]string{"/dev/sr9": "/dev/sr9\n", "/dev/sda": "", "/dev/vda2": "", "": ""} {
		for _, role := range []string{layout.RoleLive, layout.RoleSystem, layout.RoleRecovery} {
			m := bareMachine(t)
			m.Boot.Medium, m.Boot.Role = medium, role
			if err := os.MkdirAll(filepath.Dir(m.path(layout.RunEject)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := m.EjectAtTheEnd(); err != nil {
				t.Error(err)
			}
			b, _ := os.ReadFile(m.path(layout.RunEject))
			if role != layout.RoleLive {
				want = ""
			}
			if string(b) != want {
				t.Errorf("%s, %s: %q, want %q", medium, role, b, want)
			}
			if err := Eject(m.Root); (err != nil) != (want != "") { // there is no such drive here
				t.Errorf("%s, %s: %v", medium, role, err)
			}
		}
	}
}
