package provision

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// A key that goes from the config goes from the node, and no other does.
func TestKeysAreTakenBack(t *testing.T) {
	s, dir := newSystem(t, layout.RoleSystem, nil)
	const file = "home/kairos/.ssh/authorized_keys"
	conf := func(keys string) string {
		return "users: [" + strings.TrimSuffix(userYAML(), "}") + ", ssh_authorized_keys: " + keys + "}]\n"
	}
	boot := func(text, want string) {
		t.Helper()
		problems := apply(t, s, parse(text))
		if broken := strings.Contains(text, "unknown"); (problems != "") != broken {
			t.Fatal(problems)
		}
		if got := strings.Join(strings.Fields(get(t, dir, file)), " "); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	const stage = "stages: {initramfs: [{authorized_keys: {kairos: [staged]}}]}\n"
	boot(conf("[a, b]")+stage, "a b staged")
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	// The user puts one there, and one that the config is going to have.
	if err := os.WriteFile(filepath.Join(dir, file), append(b, "own\nboth\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	boot(conf("[a, both]"), "a staged own both")
	boot(conf("[c]"), "staged own both c")
	// A config with a mistake takes nothing back, and none does neither.
	boot(conf("[d]")+"unknown_key: 1\n", "staged own both c d")
	boot("", "staged own both c d")
	// Keys that are still to be fetched may be those that are there.
	boot(conf("['github:octo']"), "staged own both c d")
	boot("hostname: n1\n", "staged own both")
}
