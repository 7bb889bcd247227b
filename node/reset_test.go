package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// reset.auto resets where nothing else starts, and not again and again.
func TestResetByConfig(t *testing.T) {
	for _, firmware := range []string{layout.FirmwareUEFI, layout.FirmwareBIOS} {
		a, _, _ := threeImages(t)
		m := install(t, t.TempDir(), firmware, t.TempDir(), a)
		m.Boot.Role = layout.RoleRecovery
		writeOEM(t, m, "reset: {auto: true}\n")
		cmdline := func(words string) {
			file := m.path("proc/cmdline")
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(words+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		check := func(what string, want bool) {
			t.Helper()
			if got, err := m.ResetWanted(m.Config().Reset().Auto); got != want || err != nil {
				t.Errorf("%s: %v, %v", what, got, err)
			}
		}
		cmdline("kairos.role=recovery")
		check("a person has chosen recovery", false)
		cmdline("kairos.role=recovery kairos.reset")
		check("the menu's reset", true)
		cmdline("kairos.role=recovery")
		useUp(t, m, a.id)
		check("a blessed release used up its tries", true)
		if got, err := m.ResetWanted(false); got || err != nil {
			t.Errorf("the config does not want it: %v, %v", got, err)
		}
		// What the reset has installed fails without ever having been healthy.
		release, err := m.Recovery.Release(a.id)
		if err != nil {
			t.Fatal(err)
		}
		files, _, _ := fakeBootFiles(nil, release, nil)
		if _, err := m.ESP.Retire(nil); err != nil {
			t.Fatal(err)
		}
		if err := m.ESP.Activate(a.id, files); err != nil {
			t.Fatal(err)
		}
		check("it is installed again", false)
		useUp(t, m, a.id)
		got, err := m.ResetWanted(true)
		var refused *RefusedError
		if got || !errors.As(err, &refused) || !strings.Contains(err.Error(), "never healthy") {
			t.Errorf("it failed again: %v, %v", got, err)
		}
	}
}
